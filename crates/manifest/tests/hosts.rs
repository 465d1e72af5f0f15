//! Allowed hosts as tables of cases.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test that cannot go on fails; its table says what it holds"
)]

use innover_manifest::hosts::{AllowedHost, AllowedHosts};
use proptest::prelude::*;

fn hosts(entries: &[&str]) -> AllowedHosts {
    let entries: Vec<_> = entries.iter().map(|entry| (*entry).to_owned()).collect();
    AllowedHosts::parse(&entries).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn an_entry_allows_what_it_says_and_nothing_else() {
    type Case<'a> = (&'a str, &'a str, Option<u16>);
    let cases: &[(&str, &[Case<'_>], &[Case<'_>])] = &[
        (
            "https://api.example.test",
            &[
                ("https", "api.example.test", None),
                ("https", "API.Example.Test", Some(443)),
            ],
            &[
                ("http", "api.example.test", None),
                ("https", "api.example.test", Some(8443)),
                ("https", "x.api.example.test", None),
                ("https", "example.test", None),
                ("https", "not a host", None),
            ],
        ),
        (
            "http://example.test:8383/",
            &[("http", "example.test", Some(8383))],
            &[("http", "example.test", None)],
        ),
        (
            "*://db.test:443",
            &[("https", "db.test", None), ("tcp", "db.test", Some(443))],
            &[("http", "db.test", None), ("tcp", "db.test", None)],
        ),
        (
            "*://*:*",
            &[
                ("http", "a.test", None),
                ("tcp", "127.0.0.1", Some(1)),
                ("udp", "[::1]", None),
            ],
            &[],
        ),
        (
            "http://*.Example.TEST",
            &[
                ("http", "a.example.test", None),
                ("http", "a.b.example.test", None),
            ],
            &[
                ("http", "example.test", None),
                ("http", "myexample.test", None),
                ("http", "a.example.test.evil.test", None),
                ("http", "127.0.0.1", None),
            ],
        ),
        (
            "http://localhost:8000..8002",
            &[
                ("http", "localhost", Some(8000)),
                ("http", "localhost", Some(8001)),
            ],
            &[
                ("http", "localhost", Some(8002)),
                ("http", "localhost", Some(7999)),
                ("http", "localhost", None),
            ],
        ),
        (
            "*://127.0.0.1/24:63551",
            &[("tcp", "127.0.0.200", Some(63551))],
            &[
                ("tcp", "127.0.1.1", Some(63551)),
                ("tcp", "localhost", Some(63551)),
                ("tcp", "127.0.0.200", Some(1)),
            ],
        ),
        (
            "http://2001:db8::/32",
            &[
                ("http", "[2001:db8:abcd::1]", None),
                ("http", "2001:db8::1", Some(80)),
            ],
            &[("http", "[2001:db9::1]", None), ("http", "10.0.0.1", None)],
        ),
        (
            "http://[::1]",
            &[("http", "[::1]", None), ("http", "::1", Some(80))],
            &[("http", "[::2]", None), ("http", "[::1]", Some(81))],
        ),
        (
            "redis://127.0.0.1",
            // Another spelling of the same address is the same address.
            &[("redis", "127.0.0.1", Some(6379)), ("redis", "127.1", None)],
            &[
                ("redis", "127.0.0.2", None),
                ("rediss", "127.0.0.1", Some(6379)),
            ],
        ),
        (
            "postgres://db.test",
            &[("postgres", "db.test", Some(5432))],
            &[("postgres", "db.test", Some(5433))],
        ),
        (
            "http://self",
            &[],
            &[("http", "self", None), ("http", "localhost", None)],
        ),
        (
            "http://ledger.spin.internal",
            &[("http", "ledger.spin.internal", None)],
            &[("http", "wallet.spin.internal", None)],
        ),
    ];
    for (entry, allowed, denied) in cases {
        let hosts = hosts(&[entry]);
        for (scheme, host, port) in *allowed {
            assert!(
                hosts.allows(scheme, host, *port),
                "{entry}: {scheme} {host} {port:?}"
            );
        }
        for (scheme, host, port) in *denied {
            assert!(
                !hosts.allows(scheme, host, *port),
                "{entry}: {scheme} {host} {port:?}"
            );
        }
    }
}

#[test]
fn any_of_several_entries_may_allow() {
    let hosts = hosts(&["http://a.test", "https://b.test"]);
    assert!(hosts.allows("http", "a.test", None));
    assert!(hosts.allows("https", "b.test", None));
    assert!(!hosts.allows("https", "a.test", None));
    assert!(!AllowedHosts::default().allows("http", "a.test", None));
}

#[test]
fn what_an_empty_variable_leaves_is_no_entry() {
    let hosts = hosts(&["", "http://", "https://", "https://three.test"]);
    assert!(hosts.allows("https", "three.test", None));
    assert!(!hosts.allows("http", "", None));
}

#[test]
fn relative_requests_need_self_or_everything() {
    for (entry, scheme, expected) in [
        ("http://self", "http", true),
        ("http://self.alt", "http", true),
        ("http://self", "https", false),
        ("*://*:*", "http", true),
        ("http://localhost", "http", false),
    ] {
        assert_eq!(hosts(&[entry]).allows_self(scheme), expected, "{entry}");
    }
}

#[test]
fn components_are_reached_by_name_by_wildcard_or_by_everything() {
    let all = ["gateway", "ledger", "wallet"].map(str::to_owned);
    for (entries, targets, names) in [
        (&["http://ledger.spin.internal"][..], &["ledger"][..], true),
        (
            &[
                "https://wallet.spin.internal",
                "http://ledger.spin.internal",
            ],
            &["ledger", "wallet"],
            true,
        ),
        (
            &["http://*.spin.internal"],
            &["gateway", "ledger", "wallet"],
            true,
        ),
        (&["*://*:*"], &["gateway", "ledger", "wallet"], false),
        (&["http://ledger.test", "http://spin.internal"], &[], false),
        (&["http://unknown.spin.internal"], &[], true),
    ] {
        let hosts = hosts(entries);
        assert_eq!(hosts.chaining_targets(&all), targets, "{entries:?}");
        assert_eq!(hosts.names_components(), names, "{entries:?}");
    }
}

#[test]
fn what_is_no_entry_is_refused() {
    for entry in [
        "",
        "*",
        "?",
        ":",
        "example.test",
        "example.test:80",
        "localhost:3001",
        "insecure:allow-all",
        "://example.test",
        "ht+tp://example.test",
        "ftp://example.test",
        "*://example.test",
        "*://127.0.0.0/24",
        "{http,https}://example.test",
        "http://{a,b}.test",
        "http://{a",
        "http://example.test:{80,81}",
        "http://example.test/a",
        "http://example.test//",
        "http://example.test:6666/a/b",
        "http://*.example.test/a",
        "http://self//",
        "http://self:notaport",
        "http://a.*.test",
        "http://*a.test",
        "http://*.*.test",
        "http://*.",
        "http://*.127.0.0.1",
        "http://*.[::1]",
        "http://example.test:notaport",
        "http://example.test:99999",
        "http://example.test:8080..",
        "http://example.test:8080..70000",
        "http://example.test:80:90",
        "http://example%.test",
        "http://exa mple.test",
        "http://exa[mple.test",
        "http://[::1",
        "http://[::1]junk",
        "http://[::1]/a",
        "http://[::1]::80",
        "http://ff00::/8/extra",
        "http://ff00::/8:99999",
        "http://",
    ] {
        assert!(AllowedHost::parse(entry).is_err(), "{entry:?} was taken");
    }
}

#[test]
fn entries_that_look_odd_but_are_right_are_taken() {
    for entry in [
        " http://example.test ",
        "http://example.test:",
        "http://example.test:8080/",
        "*://ff00::/8:80",
        "http://::1/128",
        "http://[::1]:*",
        "http://[::1]:8000..9000",
        "http://*:80",
        "mqtt://broker.test",
        "mysql://db.test",
        "http://bücher.test",
    ] {
        assert!(AllowedHost::parse(entry).is_ok(), "{entry:?} was refused");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic_and_no_empty_list_allows(
        entry in "\\PC{0,24}",
        host in "\\PC{0,24}",
    ) {
        let _ = AllowedHost::parse(&entry);
        let _ = AllowedHost::parse(&format!("http://{entry}"));
        prop_assert!(!AllowedHosts::default().allows("http", &host, None));
    }

    #[test]
    fn a_plain_host_allows_itself_and_no_other(
        own in "[a-z]{1,8}\\.test",
        other in "[a-z]{1,8}\\.test",
        port in 1u16..,
    ) {
        let hosts = hosts(&[&format!("http://{own}:{port}")]);
        prop_assert!(hosts.allows("http", &own, Some(port)));
        prop_assert_eq!(hosts.allows("http", &other, Some(port)), own == other);
    }
}
