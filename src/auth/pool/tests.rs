use super::*;
use gatelog_events::clock::monotonic;

const CHEAP: Argon2Params = Argon2Params {
    memory_kib: 64,
    iterations: 1,
    lanes: 1,
};

fn pool(threads: usize, params: Argon2Params) -> HashPool {
    HashPool::start(PoolConfig {
        threads,
        params,
        ..PoolConfig::default()
    })
    .unwrap()
}

fn password(text: &str) -> Password {
    text.to_owned().into()
}

#[tokio::test]
async fn hashes_verify_and_are_salted() {
    let pool = pool(2, Argon2Params::default());
    let a = pool.hash(password("correct horse")).await.unwrap();
    let b = pool.hash(password("correct horse")).await.unwrap();
    assert!(a.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert!(a != b);
    let right = pool.verify(password("correct horse"), a.as_str()).await.unwrap();
    assert_eq!((right.ok, right.needs_rehash), (true, false));
    let wrong = pool.verify(password("correct house"), a.as_str()).await.unwrap();
    assert_eq!((wrong.ok, wrong.needs_rehash), (false, false));
    assert_eq!(pool.memory_bytes(), 2 * 19 * 1024 * 1024);
}

#[tokio::test]
async fn what_is_not_current_needs_a_rehash() {
    let old = pool(1, CHEAP).hash(password("pw")).await.unwrap();
    let larger = Argon2Params {
        memory_kib: 256,
        ..CHEAP
    };
    let larger_hash = pool(1, larger).hash(password("pw")).await.unwrap();
    let pool = pool(1, CHEAP);
    let md5 = "$md5$8fe4c11451281c094a6578e6ddbf5eed";
    for (stored, outdated) in [(old.as_str(), false), (larger_hash.as_str(), true), (md5, true)] {
        let verified = pool.verify(password("pw"), stored).await.unwrap();
        assert_eq!((verified.ok, verified.needs_rehash), (true, outdated), "{stored}");
    }
    let unreadable = pool
        .verify(
            password("pw"),
            "$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$AAAA",
        )
        .await;
    assert!(matches!(unreadable, Err(PoolError::Stored(_))));
}

#[tokio::test]
async fn beyond_the_bound_is_refused_at_once() {
    let pool = HashPool::start(PoolConfig {
        threads: 1,
        max_wait: Duration::from_millis(100),
        params: Argon2Params::default(),
        niceness: 0,
    })
    .unwrap();
    pool.verify_dummy(password("warm")).await.unwrap();
    let calls = (0..200).map(|_| pool.verify_dummy(password("x")));
    let answers = futures::future::join_all(calls).await;
    let refused = answers
        .iter()
        .filter(|a| matches!(a, Err(PoolError::Overloaded { .. })))
        .count();
    assert!((100..200).contains(&refused), "{refused}");
    for answer in answers {
        if let Err(PoolError::Overloaded { retry_after }) = answer {
            assert!(retry_after > Duration::ZERO);
        }
    }
    pool.verify_dummy(password("again")).await.unwrap();
}

#[tokio::test]
async fn abandoned_jobs_are_skipped() {
    let pool = pool(1, Argon2Params::default());
    pool.verify_dummy(password("warm")).await.unwrap();
    let started = monotonic();
    for _ in 0..50 {
        let call = pool.verify_dummy(password("x"));
        // Submits, then drops the future, as a client does that hangs up.
        let _ = tokio::time::timeout(Duration::ZERO, call).await;
    }
    pool.verify_dummy(password("last")).await.unwrap();
    let abandoned = started.elapsed();
    assert_eq!(pool.queued(), 0);
    // The same number of jobs that are waited for takes many times as long, on a machine however busy.
    let started = monotonic();
    for _ in 0..50 {
        pool.verify_dummy(password("x")).await.unwrap();
    }
    assert!(abandoned < started.elapsed());
}

#[tokio::test]
async fn dropping_ends_threads_and_answers_waiters() {
    let pool = pool(2, CHEAP);
    let shared = Arc::clone(&pool.shared);
    drop(pool);
    assert_eq!(Arc::strong_count(&shared), 1);
    let (reply, _answer) = oneshot::channel();
    let refused = shared.submit(Job::Hash {
        password: password("x"),
        salt: [0; 16],
        reply,
    });
    assert_eq!(refused, Err(PoolError::Closed));
}

/// Threat 27: an unknown user must cost what a wrong password costs. Alternating runs, compared by their medians.
#[tokio::test]
async fn dummy_costs_what_a_verification_costs() {
    let pool = pool(1, Argon2Params::default());
    let stored = pool.hash(password("right")).await.unwrap();
    let (mut real, mut dummy) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let started = monotonic();
        pool.verify(password("wrong"), stored.as_str()).await.unwrap();
        real.push(started.elapsed());
        let started = monotonic();
        pool.verify_dummy(password("wrong")).await.unwrap();
        dummy.push(started.elapsed());
    }
    real.sort();
    dummy.sort();
    let ratio = dummy[20].as_secs_f64() / real[20].as_secs_f64();
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
}

#[test]
fn invalid_parameters_are_refused() {
    for params in [
        Argon2Params {
            memory_kib: 1,
            ..CHEAP
        },
        Argon2Params {
            iterations: 0,
            ..CHEAP
        },
        Argon2Params {
            memory_kib: 1 << 30,
            ..CHEAP
        },
    ] {
        let config = PoolConfig {
            threads: 1,
            params,
            ..PoolConfig::default()
        };
        assert!(matches!(HashPool::start(config), Err(PoolError::InvalidParams)));
    }
}

/// A thread that had nothing to do wipes its memory, and must still have it afterwards.
#[tokio::test]
async fn works_on_after_a_pause() {
    let pool = pool(1, CHEAP);
    tokio::time::sleep(WIPE_AFTER * 3).await;
    let hash = pool.hash(password("pw")).await.unwrap();
    tokio::time::sleep(WIPE_AFTER * 3).await;
    assert!(pool.verify(password("pw"), hash.as_str()).await.unwrap().ok);
}
