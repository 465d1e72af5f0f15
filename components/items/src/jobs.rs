//! The task of `items-tasks`.

use innover_kit::{
    Cause, Code, Cx, Db, Failure, Job, ids,
    jobs::{Handled, Running, Task},
};
use serde::Deserialize;

use crate::{
    events::created,
    model::{Item, Name, is_owner},
    store,
};

/// Makes an item; up to a hundred jobs share a commit.
pub const CREATE: Task = Task::new("items.create", &["name", "owner"], create).batch(100);

#[derive(Deserialize)]
struct Create {
    name: String,
    owner: String,
}

impl Create {
    /// The item a job makes. Its id is made of the job's, so it is the same on every try.
    fn item(self, job: &Job) -> Option<Item> {
        let name = Name::new(&self.name)?;
        let id = ids::id_of_job("itm", &job.id);
        is_owner(&self.owner).then(|| Item::new(id, self.owner, name, ids::now_us()))
    }
}

/// `items.create(name, owner)`: makes an item of somebody's; the result is its id.
fn create<'a>(_: &'a Cx, _: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut items = Vec::new();
        for (job, wanted) in CREATE.each::<Create>(jobs, &mut handled) {
            let Some(item) = wanted.item(job) else {
                let what = "name and owner are 1 to 100 characters, without control characters or spaces around them";
                let failure = Failure::new(Code::InvalidArguments, what);
                handled.refused.insert(job.id.clone(), failure);
                continue;
            };
            handled.batch.emit(created(&item, Cause::from(job)));
            let result = item.id.clone().into();
            handled.results.insert(job.id.clone(), result);
            items.push(item);
        }
        if !items.is_empty() {
            store::insert(&mut handled.batch, &items);
        }
        Ok(handled)
    })
}
