//! What an item is and how it changes: pure.

/// Characters of a name: one line.
pub const NAME_CHARS_MAX: usize = 100;

/// An item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub id: String,
    /// Whose it is.
    pub owner: String,
    pub name: Name,
    /// 1 and up, by one per change.
    pub version: i64,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

impl Item {
    /// A new item.
    pub fn new(id: String, owner: String, name: Name, now: i64) -> Item {
        Item {
            id,
            owner,
            name,
            version: 1,
            created_at: now,
            updated_at: now,
        }
    }

    /// The item under another name.
    #[must_use]
    pub fn renamed(&self, name: Name, now: i64) -> Item {
        Item {
            name,
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        }
    }
}

/// The name of an item; there is none that is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// `None` unless it is 1 to 100 characters, without control characters or spaces around it.
    pub fn new(text: &str) -> Option<Name> {
        is_line(text).then(|| Name(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text can be the subject of a token, and so own items: nobody else could read them.
pub fn is_owner(text: &str) -> bool {
    is_line(text)
}

fn is_line(text: &str) -> bool {
    let fits = (1..=NAME_CHARS_MAX).contains(&text.chars().count());
    fits && text.trim() == text && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_of_up_to_a_hundred_characters() {
        let (longest, longer) = ("ü".repeat(100), "ü".repeat(101));
        for (text, good) in [
            ("lamp", true),
            (longest.as_str(), true),
            (longer.as_str(), false),
            ("", false),
            (" lamp", false),
            ("a\nb", false),
        ] {
            assert_eq!(Name::new(text).is_some(), good, "{text:?}");
        }
    }
}
