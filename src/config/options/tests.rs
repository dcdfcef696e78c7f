use super::*;

fn load(file: &str) -> Result<Loaded, ConfigError> {
    load_with(file, &[], &[])
}

fn load_with(file: &str, flags: &[&str], env: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    use clap::{Args, FromArgMatches};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gatelog.toml");
    std::fs::write(&path, file).unwrap();
    let command = Sources::augment_args(clap::Command::new("t"));
    let matches = command.try_get_matches_from([&["t"], flags].concat()).unwrap();
    let mut sources = Sources::from_arg_matches(&matches).unwrap();
    sources.config = Some(path);
    sources.load(|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
}

#[test]
fn names_in_the_environment_follow_from_the_options() {
    for (name, env) in NAMES {
        assert_eq!(*env, format!("GATELOG_{}", name.to_uppercase()));
    }
}

#[test]
fn defaults_are_safe_and_complete() {
    let loaded = load("").unwrap();
    let c = &loaded.config;
    assert!(c.listen.ip().is_loopback());
    assert_eq!(c.issuer, "http://localhost:8080");
    assert_eq!(c.audience, c.issuer);
    assert!(c.bootstrap_api_key.is_none());
    assert_eq!(c.session, session::Policy::default());
    assert_eq!(c.account_limits, Limits::ACCOUNT);
    assert_eq!(c.network_limits, Limits::NETWORK);
    assert_eq!(c.pool.params, Argon2Params::default());
    // What is printed can be read again, and says the same.
    let printed = loaded.to_toml().unwrap();
    assert_eq!(load(&printed).unwrap().to_toml().unwrap(), printed);
}

#[test]
fn flags_come_before_the_file() {
    let loaded = load_with("partitions = 4\nqueue = 100", &["--partitions", "3"], &[]).unwrap();
    assert_eq!((loaded.config.partitions, loaded.config.queue), (3, 100));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    for (file, expected) in [
        ("lissten = \"x\"", "lissten"),
        ("partitions = 0", "partitions is 0, but it must be from 1 to 1024"),
        ("partitions = \"many\"", "line 1"),
        (
            "\naccess_token_lifetime = \"15\"",
            "line 2: expected a length of time",
        ),
        (
            "session_idle = \"60d\"",
            "session_idle is 60d, but it must be from 1m to 30d",
        ),
        ("lock_after = 1000", "lock_after"),
        ("argon2_memory = \"1MiB\"", "argon2_memory"),
        ("argon2_iterations = 1", "at least 2 with 19MiB"),
        ("listen = \"0.0.0.0:8080\"", "--allow-plain-http"),
        ("issuer = \"login.example.com\"", "issuer"),
        ("issuer = \"https://login.example.com/\"", "issuer"),
        ("audience = \" \"", "audience"),
        ("max_body_bytes = \"8MiB\"", "max_body_bytes"),
        ("log_level = \"loud\"", "expected a level"),
        ("password_policy = \"none\"", "nist-4"),
        ("trusted_proxies = [\"proxy\"]", "IP addresses"),
        (
            "node_advertise = \"gatelog-1:8080\"",
            "a URL of this node without path",
        ),
        (
            "node_advertise = \"http://gatelog-1:8080\"",
            "--cluster-secret-file",
        ),
        (
            "forward_timeout = \"30s\"",
            "forward_timeout is 30s, but it must be from 100ms to 25s",
        ),
        ("forward_view_wait = \"1m\"", "forward_view_wait"),
        (
            "header_timeout = \"0s\"",
            "header_timeout is 0s, but it must be from 1s to 1h",
        ),
        (
            "cluster_secret = \"0123456789abcdef\"",
            "cluster_secret: expected at least 32 bytes",
        ),
    ] {
        let message = load(file).unwrap_err().to_string();
        assert!(message.contains(expected), "{file}: {message}");
    }
}

#[test]
fn listening_beyond_this_machine_needs_a_word() {
    let listen = "listen = \"0.0.0.0:8080\"\n";
    assert!(load(&format!("{listen}allow_plain_http = true")).is_ok());
    assert!(load(&format!("{listen}trusted_proxies = [\"10.0.0.1\"]")).is_ok());
    assert!(load_with(listen, &["--allow-plain-http"], &[]).is_ok());
    assert!(load(listen).is_err());
}

#[test]
fn the_bootstrap_key_comes_from_one_place_and_is_never_shown() {
    let secret = "file-0123456789";
    let file = format!("bootstrap_api_key = \"{secret}\"");
    let key = |l: &Loaded| {
        l.config
            .bootstrap_api_key
            .clone()
            .unwrap()
            .expose_secret()
            .to_owned()
    };
    let from_file = load(&file).unwrap();
    assert_eq!(key(&from_file), secret);
    assert!(!format!("{from_file:?}{}", from_file.to_toml().unwrap()).contains(secret));
    let from_env = load_with(&file, &[], &[(BOOTSTRAP_KEY, "env-0123456789")]).unwrap();
    assert_eq!(key(&from_env), "env-0123456789");

    let both = format!("{file}\nbootstrap_api_key_file = \"k\"");
    assert!(matches!(load(&both), Err(ConfigError::TwoBootstrapKeys)));
    let message = load_with("", &[], &[(BOOTSTRAP_KEY, "hunter2")])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(BOOTSTRAP_KEY) && !message.contains("hunter2"),
        "{message}"
    );
    let message = load("bootstrap_api_keyy = \"hunter2hunter2\"")
        .unwrap_err()
        .to_string();
    assert!(!message.contains("hunter2"), "{message}");
}

#[test]
fn a_key_file_must_be_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "0123456789abcdef\n").unwrap();
    let file = format!("bootstrap_api_key_file = {path:?}");
    let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
    mode(0o644);
    assert!(load(&file).unwrap_err().to_string().contains("chmod 600"));
    mode(0o600);
    assert!(load(&file).is_ok());
}

#[test]
fn a_log_in_kafka_brings_its_own_defaults_and_bounds() {
    assert!(load("").unwrap().config.kafka.is_none());
    let loaded = load("log = \"kafka\"\nkafka_replication = 1").unwrap();
    let kafka = loaded.config.kafka.unwrap();
    assert_eq!(loaded.config.partitions, 64);
    assert_eq!(kafka.log.partitions, 64);
    assert_eq!(kafka.log.min_insync_replicas, 1);
    assert_eq!(kafka.membership.group, "gatelog-writers");
    for (options, expected) in [
        (
            "kafka_activity_retention = \"1d\"",
            "kafka_activity_retention is 1d",
        ),
        ("kafka_delivery_timeout = \"2h\"", "kafka_delivery_timeout"),
        ("kafka_security = \"sasl_ssl\"", "kafka_sasl_username is missing"),
        (
            "kafka_security = \"sasl_ssl\"\nkafka_sasl_username = \"gatelog\"",
            "kafka_sasl_password_file is missing",
        ),
        ("kafka_security = \"none\"", "sasl_ssl"),
    ] {
        let message = load(&format!("log = \"kafka\"\n{options}"))
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{options}: {message}");
    }
}

#[test]
fn logins_are_spooled_only_where_the_log_can_be_away() {
    assert_eq!(load("log = \"kafka\"").unwrap().config.spool, None);
    let spool = "log = \"kafka\"\nlogin_when_log_away = \"spool\"\n";
    let max = |file: &str| load(file).unwrap().config.spool.map(|s| s.max_bytes);
    assert_eq!(max(spool), Some(64 << 20));
    assert_eq!(max(&format!("{spool}spool_max_bytes = \"1MiB\"")), Some(1 << 20));
    for (options, expected) in [
        (
            "login_when_log_away = \"spool\"",
            "login_when_log_away is spool, but it must be refuse with an embedded log",
        ),
        ("login_when_log_away = \"keep\"", "spool"),
        ("spool_max_bytes = \"1KiB\"", "spool_max_bytes is 1KiB"),
    ] {
        let message = load(options).unwrap_err().to_string();
        assert!(message.contains(expected), "{options}: {message}");
    }
}

#[test]
fn a_node_of_a_cluster() {
    use std::os::unix::fs::PermissionsExt;
    let secret = "5e".repeat(32);
    assert!(load("").unwrap().config.cluster.is_none());

    let file = format!("node_advertise = \"http://gatelog-1:8080\"\ncluster_secret = \"{secret}\"");
    let loaded = load(&file).unwrap();
    let cluster = loaded.config.cluster.clone().unwrap();
    assert_eq!(cluster.advertise.unwrap().to_string(), "http://gatelog-1:8080");
    assert_eq!(cluster.forward_timeout, Duration::from_secs(10));
    assert!(!format!("{loaded:?}{}", loaded.to_toml().unwrap()).contains(&secret));
    assert!(loaded.to_toml().unwrap().contains("# cluster_secret is set"));

    let env = [(CLUSTER_SECRET, secret.as_str())];
    assert!(load_with("", &[], &env).unwrap().config.cluster.is_some());
    let message = load_with("", &[], &[(CLUSTER_SECRET, "hunter2hunter2")])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("cluster_secret") && !message.contains("hunter2"),
        "{message}"
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    let mode = |m| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(m)).unwrap();
    let flags = ["--cluster-secret-file", path.to_str().unwrap()];
    mode(0o644);
    let message = load_with("", &flags, &[]).unwrap_err().to_string();
    assert!(message.contains("chmod 600"), "{message}");
    mode(0o600);
    assert!(load_with("", &flags, &[]).unwrap().config.cluster.is_some());
    assert!(matches!(
        load_with("", &flags, &env),
        Err(ConfigError::TwoClusterSecrets)
    ));
}
