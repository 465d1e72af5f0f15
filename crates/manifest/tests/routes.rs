//! The routing rules as tables of cases. A route is its own component's name here, so a case reads
//! "among these routes, this path goes to that one".

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test that cannot go on fails; its table says what it holds"
)]

use innover_manifest::routes::{DuplicateRoute, Router};
use innover_manifest::{HttpExecutor, HttpRoute, HttpTrigger, StaticResponse};
use proptest::prelude::*;

fn trigger(id: &str, route: HttpRoute) -> HttpTrigger {
    HttpTrigger {
        id: id.to_owned(),
        route,
        component: Some(id.to_owned()),
        static_response: None,
        executor: HttpExecutor::Http,
        middleware: Vec::new(),
    }
}

fn router(routes: &[&str]) -> Router {
    let triggers: Vec<_> = routes
        .iter()
        .map(|route| trigger(route, HttpRoute::Path((*route).to_owned())))
        .collect();
    Router::new(&triggers).unwrap()
}

#[test]
fn the_most_specific_route_answers_whatever_the_order_in_the_file() {
    let cases: &[(&[&str], &[(&str, Option<&str>)])] = &[
        (
            &["/foo", "/foo/bar"],
            &[
                ("/foo", Some("/foo")),
                ("/foo/bar", Some("/foo/bar")),
                ("/foo/baz", None),
                ("/fo", None),
                ("/", None),
            ],
        ),
        (
            &["/..."],
            &[
                ("/", Some("/...")),
                ("", Some("/...")),
                ("/abc/", Some("/...")),
                ("/foo/bar", Some("/...")),
            ],
        ),
        (
            &["/one/...", "/one/two/...", "/one/two/three/..."],
            &[
                ("/one", Some("/one/...")),
                ("/one/", Some("/one/...")),
                ("/onerous", None),
                ("/one/x", Some("/one/...")),
                ("/one/two", Some("/one/two/...")),
                ("/one/two/three/four", Some("/one/two/three/...")),
            ],
        ),
        (
            &["/one", "/one/...", "/..."],
            &[
                ("/one", Some("/one")),
                ("/one/", Some("/one")),
                ("/one/x", Some("/one/...")),
                ("/two", Some("/...")),
            ],
        ),
        // A parameter takes one segment, never none.
        (
            &["/w/:id", "/w/mine", "/w/:id/holds", "/w/..."],
            &[
                ("/w/42", Some("/w/:id")),
                ("/w/mine", Some("/w/mine")),
                ("/w/42/holds", Some("/w/:id/holds")),
                ("/w/mine/holds", Some("/w/:id/holds")),
                ("/w/42/x", Some("/w/...")),
                ("/w", Some("/w/...")),
                ("/w/", Some("/w/...")),
            ],
        ),
        // From the left, exact beats a parameter even where the other route is longer.
        (
            &["/a/...", "/:x/b/c"],
            &[("/a/b/c", Some("/a/...")), ("/z/b/c", Some("/:x/b/c"))],
        ),
        // Slashes: a trailing one and repeated ones make no difference.
        (
            &["/a/b/", "c"],
            &[
                ("/a/b", Some("/a/b/")),
                ("/a/b/", Some("/a/b/")),
                ("/a//b", Some("/a/b/")),
                ("/c", Some("c")),
            ],
        ),
        (
            &["/old/*"],
            &[("/old", Some("/old/*")), ("/old/x", Some("/old/*"))],
        ),
        // A path is compared as it is sent: case and escapes count.
        (&[], &[("/", None)]),
        (&["/a"], &[("/A", None), ("/%61", None)]),
    ];
    for (routes, paths) in cases {
        let mut reversed = routes.to_vec();
        reversed.reverse();
        for routes in [routes.to_vec(), reversed] {
            let router = router(&routes);
            for (path, expected) in *paths {
                let found = router.match_path(path);
                assert_eq!(
                    found.as_ref().and_then(|found| found.component),
                    *expected,
                    "{path} among {routes:?}"
                );
            }
        }
    }
}

#[test]
fn a_wildcard_leaves_the_rest_of_the_path_with_its_slashes() {
    for (route, path, trailing) in [
        ("/...", "/1/2/3", "/1/2/3"),
        ("/...", "/", "/"),
        ("/1/...", "/1/2/3", "/2/3"),
        ("/test/...", "/test", ""),
        ("/test/...", "/test/", "/"),
        ("/test/...", "/test/hello", "/hello"),
        ("/test/...", "/test/hello/", "/hello/"),
        ("/test/...", "/test//hello", "/hello"),
        ("/test/...", "/test/a%2Fb", "/a%2Fb"),
        ("/1/:two/...", "/1/2/3/4", "/3/4"),
        ("/exact", "/exact/", ""),
    ] {
        let router = router(&[route]);
        let found = router.match_path(path).unwrap();
        assert_eq!(found.trailing, trailing, "{path} on {route}");
        assert_eq!(found.route, route);
    }
}

#[test]
fn parameters_come_in_the_order_of_the_route() {
    let router = router(&["/:a/x/:b-2/...", "/:only/x"]);
    let found = router.match_path("/1/x/2/3").unwrap();
    assert_eq!(found.params, [("a", "1"), ("b-2", "2")]);
    // What was tried on the way to a route that did not match is not left behind.
    let found = router.match_path("/1/x").unwrap();
    assert_eq!(found.params, [("only", "1")]);
    assert_eq!(found.route_without_wildcard(), "/:only/x");
}

#[test]
fn of_two_equal_routes_the_last_wins_and_the_first_is_named() {
    let path = |route: &str| HttpRoute::Path(route.to_owned());
    let router = Router::new(&[
        trigger("first", path("/foo")),
        trigger("second", path("/foo/")),
        trigger("third", path("/:a")),
        trigger("fourth", path("/:b")),
        trigger("other", path("/foo/...")),
    ])
    .unwrap();
    assert_eq!(router.match_path("/foo").unwrap().component, Some("second"));
    let found = router.match_path("/x").unwrap();
    assert_eq!(
        (found.component, found.params),
        (Some("fourth"), vec![("b", "x")])
    );
    let duplicate = |route: &str, replaced: &str, effective: &str| DuplicateRoute {
        route: route.into(),
        replaced: replaced.into(),
        effective: effective.into(),
    };
    assert_eq!(
        router.duplicates(),
        [
            duplicate("/foo/", "first", "second"),
            duplicate("/:b", "third", "fourth")
        ]
    );
}

#[test]
fn a_private_trigger_is_never_routed_to_and_keeps_its_position() {
    let router = Router::new(&[
        trigger("hidden", HttpRoute::Private),
        trigger("shown", HttpRoute::Path("/...".into())),
    ])
    .unwrap();
    let found = router.match_path("/hidden").unwrap();
    assert_eq!((found.trigger, found.component), (1, Some("shown")));
}

#[test]
fn a_static_response_is_found_without_a_component() {
    let response = StaticResponse {
        status_code: 204,
        headers: [].into(),
        body: None,
    };
    let mut trigger = trigger("t", HttpRoute::Path("/ping".into()));
    trigger.component = None;
    trigger.static_response = Some(response.clone());
    let router = Router::new(&[trigger]).unwrap();
    let found = router.match_path("/ping").unwrap();
    assert_eq!(
        (found.component, found.static_response),
        (None, Some(&response))
    );
}

#[test]
fn reserved_and_malformed_routes_are_refused() {
    for (route, good) in [
        ("/.well-known/spin/...", false),
        ("/.well-known/spin/fie", false),
        (".well-known/spin/fie", false),
        ("/.well-known/spin", true),
        ("/.well-known/spindle/...", true),
        ("/.well-known/spi/...", true),
        ("/.well-known/...", true),
        ("/a/.../b", false),
        ("/a*", false),
        ("/:", false),
        ("/:a/:a", false),
        ("/:a.json", false),
        ("/a b", false),
        ("/a#b", false),
        ("/a...", true),
        ("...", true),
        ("/", true),
        ("", true),
    ] {
        let built = Router::new(&[trigger("t", HttpRoute::Path(route.into()))]);
        assert_eq!(built.is_ok(), good, "{route:?}");
    }
}

/// The rules written the slow way: try each route, keep the most specific that fits.
fn slow<'a>(routes: &[&'a str], path: &str) -> Option<&'a str> {
    let segments = |text: &'a str| {
        text.split('/')
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
    };
    let path: Vec<_> = path.split('/').filter(|s| !s.is_empty()).collect();
    routes
        .iter()
        .filter_map(|route| {
            let mut rank = Vec::new();
            let mut rest = path.as_slice();
            for segment in segments(route) {
                if segment == "..." {
                    rank.push(1);
                    return Some((rank, *route));
                }
                let (first, others) = rest.split_first()?;
                if segment.starts_with(':') {
                    rank.push(2);
                } else if segment == *first {
                    rank.push(3);
                } else {
                    return None;
                }
                rest = others;
            }
            rank.push(4);
            rest.is_empty().then_some((rank, *route))
        })
        .max_by(|a, b| a.0.cmp(&b.0))
        .map(|(_, route)| route)
}

proptest! {
    #[test]
    fn the_tree_finds_what_trying_every_route_finds(
        routes in prop::collection::vec("(/(a|b|:x)){0,1}(/(a|b|:y)){0,1}(/(a|b|:z)){0,1}(/\\.\\.\\.)?", 1..8),
        path in "(/(a|b|c)){0,5}/?",
    ) {
        let mut routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        // Equal routes have a test of their own.
        let mut shapes = std::collections::BTreeSet::new();
        routes.retain(|route| shapes.insert(route.replace([':', 'x', 'y', 'z'], "_")));
        let router = router(&routes);
        let found = router.match_path(&path).map(|found| found.route);
        prop_assert_eq!(found, slow(&routes, &path));
    }
}
