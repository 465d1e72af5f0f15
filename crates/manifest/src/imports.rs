//! Names of imports: what the key of a dependency says, and which imports it satisfies.

use crate::model::{Dependency, DependencySource};
use crate::names;
use crate::reader::Node;

/// Whether the dependency under `key` satisfies the import `import` of its component, by Spin's rules:
/// the package must be the same, and so must be what else the key names. `acme:money` takes every
/// interface of the package, `acme:money/rules` any version of one, `acme:money/rules@0.1.0` that
/// version alone.
pub fn satisfies(key: &str, import: &str) -> bool {
    let (Ok(key), Ok(import)) = (ImportName::parse(key), ImportName::parse(import)) else {
        return false;
    };
    if key.package.is_none() {
        return key.text == import.text;
    }
    key.package == import.package
        && (key.interface.is_none() || key.interface == import.interface)
        && (key.version.is_none() || key.version == import.version)
}

/// The key of a dependency: `acme:money`, `acme:money/rules@0.1.0`, or a plain `money-rules`.
pub(crate) struct ImportName<'a> {
    pub(crate) text: &'a str,
    package: Option<&'a str>,
    interface: Option<&'a str>,
    version: Option<semver::Version>,
}

impl<'a> ImportName<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut import = Self {
            text,
            package: None,
            interface: None,
            version: None,
        };
        if !text.contains([':', '/']) {
            names::kebab(text)?;
            return Ok(import);
        }
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        if let Some(version) = version {
            let parsed = semver::Version::parse(version);
            import.version =
                Some(parsed.map_err(|error| format!("`{version}` is no version: {error}"))?);
        }
        let (package, interface) = match name.split_once('/') {
            Some((package, interface)) => (package, Some(interface)),
            None => (name, None),
        };
        let (namespace, package_name) = package
            .split_once(':')
            .ok_or("a package is written `namespace:name`")?;
        for part in [Some(namespace), Some(package_name), interface]
            .into_iter()
            .flatten()
        {
            names::kebab(part).map_err(|reason| format!("`{part}`: {reason}"))?;
        }
        import.package = Some(package);
        import.interface = interface;
        Ok(import)
    }

    /// The rules between the name and what it is satisfied with.
    pub(crate) fn check(&self, node: &Node<'_>, dependency: &Dependency) {
        let source = &dependency.source;
        if self.package.is_none()
            && matches!(source, DependencySource::Registry { package: None, .. })
        {
            node.place
                .report("a plain name needs a `package`, for example `package = \"acme:money\"`");
        }
        let whole_package = self.package.is_some() && self.interface.is_none();
        let has_one_export = dependency.export.is_some()
            && matches!(
                source,
                DependencySource::Registry { .. } | DependencySource::Path(_)
            );
        if whole_package && has_one_export {
            node.place.report(
                "one `export` cannot satisfy a whole package; name an interface: `namespace:name/interface`",
            );
        }
    }

    /// Whether one import could be satisfied by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let differ =
            |a: Option<String>, b: Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        self.package.is_some()
            && self.package == other.package
            && !differ(self.compatible_version(), other.compatible_version())
            && !differ(
                self.interface.map(str::to_owned),
                other.interface.map(str::to_owned),
            )
    }

    /// The part of the version that must be equal for semver compatibility.
    fn compatible_version(&self) -> Option<String> {
        let version = self.version.as_ref()?;
        Some(if !version.pre.is_empty() {
            format!(
                "{}.{}.{}-{}",
                version.major, version.minor, version.patch, version.pre
            )
        } else if version.major > 0 {
            format!("{}", version.major)
        } else if version.minor > 0 {
            format!("0.{}", version.minor)
        } else {
            format!("0.0.{}", version.patch)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::satisfies;

    #[test]
    fn a_key_satisfies_what_it_names_and_no_more() {
        for (key, import, expected) in [
            ("acme:money/rules@0.1.0", "acme:money/rules@0.1.0", true),
            ("acme:money/rules@0.1.0", "acme:money/rules@0.1.1", false),
            ("acme:money/rules@0.1.0", "acme:money/rules", false),
            ("acme:money/rules", "acme:money/rules@0.1.0", true),
            ("acme:money/rules", "acme:money/rules", true),
            ("acme:money/rules", "acme:money/rates@0.1.0", false),
            ("acme:money", "acme:money/rates@0.1.0", true),
            ("acme:money@0.1.0", "acme:money/rates@0.1.0", true),
            ("acme:money@0.2.0", "acme:money/rates@0.1.0", false),
            ("acme:money", "acme:time/zones@0.1.0", false),
            ("money", "money", true),
            ("money", "acme:money/money", false),
            ("money", "not a name", false),
        ] {
            assert_eq!(satisfies(key, import), expected, "{key} for {import}");
        }
    }
}
