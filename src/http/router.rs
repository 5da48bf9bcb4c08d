//! From method and path to what was registered for them: pure.
//!
//! One matchit tree per method, because the path decides between 404 and 405 before the method does. Paths are
//! matched as sent; percent-encoding is the handler's business.

use matchit::Params;

/// Why a route cannot be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteError {
    /// The method is not a token, or the pattern is not one matchit understands.
    Invalid,
    /// It cannot be told from a route that is there already.
    Conflict,
}

pub enum Found<'router, 'path, H> {
    Route(&'router H, Params<'router, 'path>),
    /// The path exists under other methods: see [`Router::write_allowed`].
    OtherMethods,
    Nothing,
}

struct Tree<H> {
    method: Box<str>,
    routes: matchit::Router<H>,
}

pub struct Router<H> {
    /// In the order of registration; a handful, so a scan is the fastest look-up.
    trees: Vec<Tree<H>>,
}

impl<H> Router<H> {
    pub const fn new() -> Self {
        Self { trees: Vec::new() }
    }

    pub fn insert(&mut self, method: &str, pattern: &str, route: H) -> Result<(), RouteError> {
        if !super::response::is_token(method.as_bytes()) || !pattern.starts_with('/') {
            return Err(RouteError::Invalid);
        }
        let known = self.trees.iter().position(|tree| *tree.method == *method);
        let mut fresh = matchit::Router::new();
        let routes = match known {
            Some(at) => &mut self.trees[at].routes,
            None => &mut fresh,
        };
        routes.insert(pattern, route).map_err(|error| match error {
            matchit::InsertError::Conflict { .. } => RouteError::Conflict,
            _ => RouteError::Invalid,
        })?;
        if known.is_none() {
            self.trees.push(Tree {
                method: method.into(),
                routes: fresh,
            });
        }
        Ok(())
    }

    /// HEAD is served by the route of GET where it has none of its own.
    pub fn find<'router, 'path>(
        &'router self,
        method: &[u8],
        path: &'path str,
    ) -> Found<'router, 'path, H> {
        let find_in = |method: &[u8]| {
            let tree = self
                .trees
                .iter()
                .find(|tree| tree.method.as_bytes() == method)?;
            tree.routes.at(path).ok()
        };
        let mut found = find_in(method);
        if found.is_none() && method == b"HEAD" {
            found = find_in(b"GET");
        }
        match found {
            Some(found) => Found::Route(found.value, found.params),
            None if self.trees.iter().any(|tree| tree.routes.at(path).is_ok()) => {
                Found::OtherMethods
            }
            None => Found::Nothing,
        }
    }

    /// The value of the `Allow` header for a path.
    pub fn write_allowed(&self, path: &str, out: &mut Vec<u8>) {
        let here = |method: &str| {
            self.trees
                .iter()
                .any(|tree| *tree.method == *method && tree.routes.at(path).is_ok())
        };
        let mut add = |method: &str| {
            if !out.is_empty() {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(method.as_bytes());
        };
        for tree in self.trees.iter().filter(|tree| here(&tree.method)) {
            add(&tree.method);
            if *tree.method == *"GET" && !here("HEAD") {
                add("HEAD");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Router<u32> {
        let mut router = Router::new();
        router.insert("GET", "/", 1).unwrap();
        router.insert("GET", "/user/{id}", 2).unwrap();
        router.insert("POST", "/user/{id}", 3).unwrap();
        router.insert("GET", "/files/{*rest}", 4).unwrap();
        router.insert("PURGE", "/cache", 5).unwrap();
        router
    }

    fn route(router: &Router<u32>, method: &str, path: &str) -> Result<u32, &'static str> {
        match router.find(method.as_bytes(), path) {
            Found::Route(route, _) => Ok(*route),
            Found::OtherMethods => Err("other methods"),
            Found::Nothing => Err("nothing"),
        }
    }

    #[test]
    fn method_and_path_decide_together() {
        let router = example();
        assert_eq!(route(&router, "GET", "/"), Ok(1));
        assert_eq!(route(&router, "GET", "/user/7"), Ok(2));
        assert_eq!(route(&router, "POST", "/user/7"), Ok(3));
        assert_eq!(route(&router, "GET", "/files/a/b/c"), Ok(4));
        assert_eq!(route(&router, "PURGE", "/cache"), Ok(5));
        assert_eq!(route(&router, "HEAD", "/user/7"), Ok(2));
        assert_eq!(route(&router, "PUT", "/user/7"), Err("other methods"));
        assert_eq!(route(&router, "HEAD", "/cache"), Err("other methods"));
        assert_eq!(route(&router, "get", "/"), Err("other methods"));
        assert_eq!(route(&router, "GET", "/user"), Err("nothing"));
        assert_eq!(route(&router, "GET", "*"), Err("nothing"));
    }

    #[test]
    fn parameters_are_parts_of_the_path() {
        let router = example();
        let Found::Route(_, params) = router.find(b"GET", "/user/a%20b") else {
            panic!("the route is there");
        };
        assert_eq!(params.get("id"), Some("a%20b"));
        assert_eq!(params.get("name"), None);
    }

    #[test]
    fn allowed_methods_are_listed_with_the_implied_head() {
        let router = example();
        let allowed = |path| {
            let mut out = Vec::new();
            router.write_allowed(path, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(allowed("/user/7"), "GET, HEAD, POST");
        assert_eq!(allowed("/cache"), "PURGE");
        assert_eq!(allowed("/nowhere"), "");
    }

    #[test]
    fn routes_that_cannot_be_are_refused() {
        let mut router = example();
        for (method, pattern) in [
            ("", "/a"),
            ("GE T", "/a"),
            ("GET", "a"),
            ("GET", ""),
            ("GET", "/{"),
            ("GET", "/{}"),
        ] {
            assert_eq!(router.insert(method, pattern, 9), Err(RouteError::Invalid));
        }
        assert_eq!(
            router.insert("GET", "/user/{name}", 9),
            Err(RouteError::Conflict)
        );
        let mut empty = Router::new();
        assert_eq!(empty.insert("GET", "/{", 1), Err(RouteError::Invalid));
        assert_eq!(route(&empty, "GET", "/"), Err("nothing"));
    }
}
