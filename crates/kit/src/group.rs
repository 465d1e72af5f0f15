//! Requests of one instance that want the same at the same moment have it done together.
//!
//! Whoever comes while nobody works does so at once, for itself; whoever comes meanwhile waits, and
//! the first of those then works for all of them: one read, one commit. Clients that were answered
//! together ask again at about the same time, so who works next waits for those of the last time, but
//! not much longer than the work itself took then. A request that comes after one that was alone waits
//! for nobody.

use std::{
    collections::VecDeque,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    call, ids,
    wake::{self, Bell},
};

/// Company is waited for so many times as long as the work took the last time: where the processor is
/// what is short, those who come back are on their way for longer than the work takes.
const COMPANY_PER_WORK: u64 = 2;
/// Nobody is waited for any longer than this.
const COMPANY_MAX_US: u64 = 20_000;

/// What requests of an instance ask for and how each is answered; a static of the service.
pub struct Group<T, R> {
    state: Mutex<State<T, R>>,
    /// So many are worked for at once.
    together_max: usize,
}

struct State<T, R> {
    /// Somebody works, or has been told to.
    busy: bool,
    waiting: VecDeque<Waiting<T, R>>,
    /// How many were worked for the last time.
    last: usize,
    /// So long they are waited for.
    patience_us: u64,
    /// So many more are waited for, and who is told that they are there.
    company: Option<(usize, Bell)>,
}

struct Waiting<T, R> {
    item: T,
    turn: Arc<Mutex<Turn<R>>>,
    bell: Bell,
}

/// What became of one who waits.
enum Turn<R> {
    /// Nothing yet.
    Open,
    /// It is to work for the others, and for itself.
    Lead,
    /// It was worked for.
    Done(R),
    /// Who worked for it is gone, and nobody knows how far it got.
    Lost,
}

/// No change under these locks can be left half done by a panic, so a poisoned one is still whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone, R> Group<T, R> {
    /// A group of at most so many.
    pub const fn new(together_max: usize) -> Group<T, R> {
        let state = State {
            busy: false,
            waiting: VecDeque::new(),
            last: 0,
            patience_us: 0,
            company: None,
        };
        Group {
            state: Mutex::new(state),
            together_max,
        }
    }

    /// Has `item` done, alone or with others. `prepare` is what may wait before it is known for whom
    /// one works (a lock), `work` answers for each of its items in their order.
    ///
    /// An item whose worker ended in the middle (its client went away) is done again, so doing one
    /// twice has to be the same as once: it carries an id of its own.
    pub async fn run<P, A, B>(
        &self,
        item: T,
        prepare: impl FnOnce() -> A,
        work: impl FnOnce(P, Vec<T>) -> B,
    ) -> R
    where
        A: Future<Output = P>,
        B: Future<Output = Vec<R>>,
    {
        let mut handed_on = false;
        loop {
            let Some(waiting) = self.enter(&item) else {
                break;
            };
            match waiting.answered().await {
                Turn::Done(result) => return result,
                Turn::Lead => {
                    handed_on = true;
                    break;
                }
                Turn::Open | Turn::Lost => {}
            }
        }
        let mut leading = Leading {
            group: self,
            turns: Vec::new(),
        };
        self.company(handed_on).await;
        let prepared = prepare().await;
        let items = leading.draw(item);
        let began = ids::now_us();
        let mut results = work(prepared, items).await.into_iter();
        let took_us = u64::try_from(ids::now_us() - began).unwrap_or_default();
        locked(&self.state).patience_us =
            took_us.saturating_mul(COMPANY_PER_WORK).min(COMPANY_MAX_US);
        let own = results.next();
        leading.answer(results);
        drop(leading);
        own.unwrap_or_else(|| unreachable!("`work` answers for every item"))
    }

    /// Waits for those who were worked for the last time. They are not among those who came meanwhile
    /// when the one who worked for them has just handed on.
    async fn company(&self, handed_on: bool) {
        let (patience_us, ear) = {
            let mut state = locked(&self.state);
            let here = 1 + state.waiting.len();
            let wanted = match handed_on {
                true => here + state.last,
                false => state.last,
            };
            let missing = wanted.min(self.together_max).saturating_sub(here);
            if missing == 0 {
                return;
            }
            let (bell, ear) = wake::pair();
            state.company = Some((missing, bell));
            (state.patience_us, ear)
        };
        let mut heard = pin!(ear.heard());
        if call::within_us(patience_us, heard.as_mut()).await.is_none() {
            // Its own bell, so that no read of it is ever given up half way.
            let late = locked(&self.state).company.take();
            drop(late);
            heard.await;
        }
    }

    /// A place among those who wait; `None` is to work.
    fn enter(&self, item: &T) -> Option<Place<'_, T, R>> {
        let mut state = locked(&self.state);
        if !state.busy {
            state.busy = true;
            return None;
        }
        let (bell, ear) = wake::pair();
        let turn = Arc::new(Mutex::new(Turn::Open));
        state.waiting.push_back(Waiting {
            item: item.clone(),
            turn: turn.clone(),
            bell,
        });
        let complete = state.company.take().and_then(|(missing, bell)| {
            if missing == 1 {
                return Some(bell);
            }
            state.company = Some((missing - 1, bell));
            None
        });
        drop(state);
        drop(complete);
        Some(Place {
            group: self,
            turn,
            ear: Some(ear),
        })
    }

    /// The first who waits works next.
    fn hand_on(&self) {
        let (next, late) = {
            let mut state = locked(&self.state);
            let next = state.waiting.pop_front();
            state.busy = next.is_some();
            // Of one that went away while it waited for company.
            (next, state.company.take())
        };
        drop(late);
        if let Some(next) = next {
            *locked(&next.turn) = Turn::Lead;
        }
    }
}

/// One who waits. Whoever leaves leaves no gap.
struct Place<'a, T: Clone, R> {
    group: &'a Group<T, R>,
    turn: Arc<Mutex<Turn<R>>>,
    ear: Option<wake::Ear>,
}

impl<T: Clone, R> Place<'_, T, R> {
    async fn answered(mut self) -> Turn<R> {
        if let Some(ear) = self.ear.take() {
            ear.heard().await;
        }
        mem::replace(&mut *locked(&self.turn), Turn::Open)
    }
}

impl<T: Clone, R> Drop for Place<'_, T, R> {
    fn drop(&mut self) {
        let own = |waiting: &Waiting<T, R>| Arc::ptr_eq(&waiting.turn, &self.turn);
        let left = {
            let mut state = locked(&self.group.state);
            let at = state.waiting.iter().position(own);
            at.and_then(|at| state.waiting.remove(at))
        };
        drop(left);
        // Told to work and gone before it heard of it.
        if matches!(*locked(&self.turn), Turn::Lead) {
            self.group.hand_on();
        }
    }
}

/// The one who works.
struct Leading<'a, T: Clone, R> {
    group: &'a Group<T, R>,
    /// Those it works for besides itself, and their bells.
    turns: Vec<(Arc<Mutex<Turn<R>>>, Bell)>,
}

impl<T: Clone, R> Leading<'_, T, R> {
    /// Its own item and those of the others who wait by now.
    fn draw(&mut self, own: T) -> Vec<T> {
        let mut state = locked(&self.group.state);
        let others = state.waiting.len().min(self.group.together_max - 1);
        state.last = 1 + others;
        let mut items = vec![own];
        for waiting in state.waiting.drain(..others) {
            items.push(waiting.item);
            self.turns.push((waiting.turn, waiting.bell));
        }
        items
    }

    fn answer(&mut self, results: impl Iterator<Item = R>) {
        for ((turn, bell), result) in self.turns.drain(..).zip(results) {
            *locked(&turn) = Turn::Done(result);
            drop(bell);
        }
    }
}

impl<T: Clone, R> Drop for Leading<'_, T, R> {
    fn drop(&mut self) {
        for (turn, bell) in self.turns.drain(..) {
            *locked(&turn) = Turn::Lost;
            drop(bell);
        }
        self.group.hand_on();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn each_is_answered_its_own_and_many_are_worked_for_at_once() {
        static GROUP: Group<usize, (usize, usize)> = Group::new(16);
        static WORKED: AtomicUsize = AtomicUsize::new(0);
        let asked: Vec<_> = (0..1_000_usize)
            .map(|n| {
                tokio::spawn(GROUP.run(
                    n,
                    async || (),
                    |(), items: Vec<usize>| async move {
                        WORKED.fetch_add(1, Ordering::SeqCst);
                        assert!(items.len() <= 16);
                        sleep(Duration::from_micros(300)).await;
                        items.iter().map(|item| (item * 2, items.len())).collect()
                    },
                ))
            })
            .collect();
        let mut largest = 0;
        for (n, asked) in asked.into_iter().enumerate() {
            let (doubled, together) = asked.await.unwrap();
            assert_eq!(doubled, n * 2);
            largest = largest.max(together);
        }
        assert!(largest > 1, "nobody had company");
        assert!(WORKED.load(Ordering::SeqCst) < 1_000);
        assert!(!locked(&GROUP.state).busy);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn one_works_at_a_time() {
        static GROUP: Group<(), ()> = Group::new(4);
        static WORKING: AtomicUsize = AtomicUsize::new(0);
        let asked: Vec<_> = (0..200)
            .map(|_| {
                tokio::spawn(GROUP.run(
                    (),
                    async || assert_eq!(WORKING.fetch_add(1, Ordering::SeqCst), 0),
                    |(), items: Vec<()>| async move {
                        sleep(Duration::from_micros(100)).await;
                        assert_eq!(WORKING.fetch_sub(1, Ordering::SeqCst), 1);
                        items
                    },
                ))
            })
            .collect();
        for asked in asked {
            asked.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn as_many_as_the_last_time_are_waited_for_but_not_for_ever() {
        static GROUP: Group<usize, usize> = Group::new(16);
        let run = |n| {
            tokio::spawn(GROUP.run(
                n,
                async || (),
                |(), items: Vec<usize>| async move { vec![items.len(); items.len()] },
            ))
        };
        {
            let mut state = locked(&GROUP.state);
            (state.last, state.patience_us) = (3, 60_000_000);
        }
        let first = run(1);
        while locked(&GROUP.state).company.is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        let others = [run(2), run(3)];
        assert_eq!(first.await.unwrap(), 3);
        for other in others {
            assert_eq!(other.await.unwrap(), 3);
        }
        // The two others do not come back.
        locked(&GROUP.state).patience_us = 1_000;
        assert_eq!(run(1).await.unwrap(), 1);
        let state = locked(&GROUP.state);
        assert!(state.last == 1 && state.company.is_none());
    }

    /// Those of the last time are not yet back when who worked for them hands on, and are waited for
    /// besides those who came meanwhile.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_is_handed_on_to_waits_for_those_of_the_last_time_as_well() {
        static GROUP: Group<usize, usize> = Group::new(16);
        {
            let mut state = locked(&GROUP.state);
            (state.busy, state.last, state.patience_us) = (true, 2, 60_000_000);
        }
        let came = GROUP.enter(&1).unwrap();
        let waits = tokio::spawn(GROUP.company(true));
        let missing = || {
            locked(&GROUP.state)
                .company
                .as_ref()
                .map(|(missing, _)| *missing)
        };
        while missing().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(missing(), Some(2));
        let back = [GROUP.enter(&2).unwrap(), GROUP.enter(&3).unwrap()];
        timeout(Duration::from_secs(60), waits)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(locked(&GROUP.state).waiting.len(), 3);
        drop((came, back));
    }

    /// Who works and who waits are cut off at random moments; nobody else waits for ever, and what
    /// was lost half way is done again.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn whoever_leaves_holds_up_nobody() {
        static GROUP: Group<usize, usize> = Group::new(8);
        static DONE: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let asked: Vec<_> = (0..3_000_usize)
            .map(|n| {
                let patience = Duration::from_micros(next() % 4_000);
                let arrival = Duration::from_micros(next() % 100_000);
                let leaves = n % 3 == 0;
                tokio::spawn(async move {
                    sleep(arrival).await;
                    let done = GROUP.run(
                        n,
                        async || sleep(Duration::from_micros(50)).await,
                        |(), items: Vec<usize>| async move {
                            sleep(Duration::from_micros(200)).await;
                            for item in &items {
                                *locked(&DONE).entry(*item).or_default() += 1;
                            }
                            sleep(Duration::from_micros(200)).await;
                            items
                        },
                    );
                    match leaves {
                        true => timeout(patience, done).await.ok(),
                        false => Some(done.await),
                    }
                })
            })
            .collect();
        for (n, asked) in asked.into_iter().enumerate() {
            let answered = timeout(Duration::from_secs(60), asked).await;
            let answered = answered.expect("somebody waits for ever").unwrap();
            assert!(answered == Some(n) || (answered.is_none() && n % 3 == 0));
            assert!(answered.is_none() || locked(&DONE).contains_key(&n));
        }
        let state = locked(&GROUP.state);
        assert!(!state.busy && state.waiting.is_empty());
    }
}
