//! The forms of names: Spin's kebab and snake identifiers, and the names Innover adds.
//! Each function says what is wrong, in words that follow the name in a sentence.

/// `lower_snake_case`: variable names.
pub(crate) fn lower_snake(name: &str) -> Result<(), String> {
    if name.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("use lower case only".into());
    }
    words(name, '_', Some('-'))
}

/// `kebab-case`: component ids, plain dependency names.
pub(crate) fn kebab(name: &str) -> Result<(), String> {
    words(name, '-', Some('_'))
}

/// Kebab or snake case: labels of stores and databases.
pub(crate) fn label(name: &str) -> Result<(), String> {
    if words(name, '-', None).is_ok() || words(name, '_', None).is_ok() {
        Ok(())
    } else {
        Err("use kebab-case or snake_case, for example `default`".into())
    }
}

/// `lower.dotted`, two words at least: event types such as `payment.initiated`. `score_pending` has
/// two as well: the systems that had it before called it so.
pub(crate) fn event_type(name: &str) -> Result<(), String> {
    let words: Vec<_> = name.split('.').collect();
    let several = words.len() >= 2 || name.contains('_');
    if several && words.iter().all(|word| lower_snake(word).is_ok()) {
        Ok(())
    } else {
        Err("use lower case words joined by dots, for example `payment.initiated`".into())
    }
}

/// A Python dotted name, which is what Celery clients call tasks by: `payment.confirm`, `add`.
pub(crate) fn task(name: &str) -> Result<(), String> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if name.split('.').all(is_word) {
        Ok(())
    } else {
        Err("use words joined by dots, for example `payment.confirm`".into())
    }
}

/// A Redis list that Celery clients push to: printable ASCII without what Kombu gives a meaning
/// (`\x06\x16` before a priority is not printable, `,` separates queues on the command line).
pub(crate) fn queue(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if !name.is_empty() && name.chars().all(allowed) {
        Ok(())
    } else {
        Err("use letters, digits, `-`, `_`, `.` and `:`, for example `payment-tasks`".into())
    }
}

/// Spin's identifier rule: words joined by `joint`, each starting with a letter, all lower case or
/// all upper case.
fn words(name: &str, joint: char, wrong_joint: Option<char>) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name must not be empty".into());
    }
    if let Some(wrong) = wrong_joint
        && name.contains(wrong)
    {
        return Err(format!("join words with `{joint}`, not `{wrong}`"));
    }
    for word in name.split(joint) {
        let Some(first) = word.chars().next() else {
            return Err(format!("a word next to `{joint}` is missing"));
        };
        if !first.is_ascii_alphabetic() {
            return Err(format!("each word must start with a letter, not `{first}`"));
        }
        if let Some(other) = word.chars().find(|c| !c.is_ascii_alphanumeric()) {
            return Err(format!("use letters and digits only, not `{other}`"));
        }
        let upper = word.chars().any(|c| c.is_ascii_uppercase());
        let lower = word.chars().any(|c| c.is_ascii_lowercase());
        if upper && lower {
            return Err("a word is all lower case or all upper case".into());
        }
    }
    Ok(())
}

/// The known name that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// ", did you mean `x`?" or nothing.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Result<(), String>;

    #[test]
    fn each_kind_of_name_has_its_form() {
        let cases: [(Rule, &[&str], &[&str]); 6] = [
            (
                kebab,
                &["a", "wallet", "a-b2", "HTTP-x"],
                &["", "a_b", "a--b", "1-2", "a-1", "aB", "é", "a.b"],
            ),
            (
                lower_snake,
                &["a", "pg_url", "a1_b2"],
                &["", "a-b", "A", "_a", "a__b", "bad+name"],
            ),
            (
                label,
                &["default", "a-b", "a_b"],
                &["", "b@d", "a-b_c", "1"],
            ),
            (
                event_type,
                &["a.b", "payment.initiated", "a.b_c.d", "score_pending"],
                &["a", "a.", ".a", "A.b", "a-b.c"],
            ),
            (
                task,
                &["add", "payment.confirm", "a._b2"],
                &["", ".a", "a..b", "a b", "1a", "a-b"],
            ),
            (
                queue,
                &["celery", "payment-tasks", "a:b.c_d"],
                &["", "a b", "a,b", "a\u{6}"],
            ),
        ];
        for (rule, good, bad) in cases {
            for name in good {
                assert_eq!(rule(name), Ok(()), "{name:?}");
            }
            for name in bad {
                assert!(rule(name).is_err(), "{name:?}");
            }
        }
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant_and_a_stranger_finds_none() {
        let known = ["sqlite_databases", "source", "variables"];
        assert_eq!(nearest("sqlite_database", known), Some("sqlite_databases"));
        assert_eq!(nearest("sorce", known), Some("source"));
        assert_eq!(nearest("volume", known), None);
        assert_eq!(nearest("a", ["b"]), None);
    }
}
