//! `{{ variable }}` expressions in manifest strings, with the rules of Spin's `spin-expressions`.

use std::fmt;

use serde::Serialize;

use crate::names;

/// A string with `{{ variable }}` expressions, parsed when the manifest is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(String),
}

/// Why a string is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("`{{{{` has no `}}}}`: write `{{{{ variable }}}}`")]
    Unclosed,
    /// What stands between the braces is no variable name.
    #[error("`{{{{ {name} }}}}` does not name a variable: {reason}")]
    Name {
        /// What was written.
        name: String,
        /// The rule it breaks.
        reason: String,
    },
}

/// A variable had no value when a template was resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("variable `{0}` has no value")]
pub struct Unresolved(pub String);

impl Template {
    /// Parses `text`; variable names are checked for their form, not for being declared.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find("{{") {
            if open > 0 {
                parts.push(Part::Literal(rest[..open].to_owned()));
            }
            let (name, after) = rest[open + 2..]
                .split_once("}}")
                .ok_or(TemplateError::Unclosed)?;
            let name = name.trim();
            names::lower_snake(name).map_err(|reason| TemplateError::Name {
                name: name.to_owned(),
                reason,
            })?;
            parts.push(Part::Variable(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The names it uses, in order, with repeats.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The text itself, when it uses no variable.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with each variable replaced by what `value` returns for its name.
    /// Fails with the first name that has no value.
    pub fn resolve(&self, value: &impl Fn(&str) -> Option<String>) -> Result<String, Unresolved> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Variable(name) => {
                    text.push_str(&value(name).ok_or_else(|| Unresolved(name.clone()))?);
                }
            }
        }
        Ok(text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Literal(literal) => f.write_str(literal),
            Part::Variable(name) => write!(f, "{{{{ {name} }}}}"),
        })
    }
}

impl Serialize for Template {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "host" => Some("db.test".into()),
            "empty" => Some(String::new()),
            // A value is never read as a template again.
            "braces" => Some("{{ host }}".into()),
            _ => None,
        }
    }

    #[test]
    fn a_template_resolves_to_its_text_with_the_values_in_place() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("one } brace { more", "one } brace { more"),
            ("{{host}}", "db.test"),
            ("a-{{ host }}-b", "a-db.test-b"),
            ("{{ host }}{{   host   }}", "db.testdb.test"),
            ("{{ empty }}", ""),
            ("{{ braces }}", "{{ host }}"),
            ("closing }} alone", "closing }} alone"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(
                template.resolve(&value).as_deref(),
                Ok(expected),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_variable_without_a_value_is_named() {
        let template = Template::parse("{{ host }}:{{ port }}").unwrap();
        assert_eq!(template.resolve(&value), Err(Unresolved("port".into())));
        assert_eq!(template.variables().collect::<Vec<_>>(), ["host", "port"]);
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for text in [
            "{{ host",
            "{{ host }} {{ x",
            "{{}}",
            "{{ a-b }}",
            "{{ A }}",
            "{{ 1a }}",
            "{{ a b }}",
        ] {
            assert!(Template::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_a_text_without_variables_is_literal() {
        for (text, expected) in [
            ("", Some("")),
            ("a", Some("a")),
            ("{{ a }}", None),
            ("a{{ a }}", None),
        ] {
            assert_eq!(Template::parse(text).unwrap().literal(), expected);
        }
    }
}
