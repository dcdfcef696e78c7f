//! Hashes made by other implementations (Python's hashlib, crypt, passlib, bcrypt and argon2-cffi; Firebase's own example).

use super::{HashFormatError, StoredHash};

const PASSWORD: &str = "Füchse im Garten 7!";

/// Hashes of [`PASSWORD`].
const VECTORS: &[(&str, &str)] = &[
    (
        "argon2id",
        "$argon2id$v=19$m=256,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$CCwMg0dG/Q57xNeqJ/4ZMs9h2Jzqve+AlE5XThD04JQ",
    ),
    (
        "argon2i",
        "$argon2i$v=19$m=256,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$rMen3Ge5naBY8dUZy29WBMbqi/pqJfNNRD3uxVYHieE",
    ),
    (
        "argon2d",
        "$argon2d$v=19$m=256,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$ujqM5j1vh0QfudeAB9o3h5rTIgWJfxlhYa28mGwSCcE",
    ),
    (
        "argon2id p=4",
        "$argon2id$v=19$m=64,t=1,p=4$MDEyMzQ1Njc4OWFiY2RlZg$ySxRTDLYwlM0LSnyF7Ythg",
    ),
    (
        "argon2id v=16",
        "$argon2id$v=16$m=256,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$mrjdh+kXTAtsqon7Q22dXOdkLQzUv6pPIQiJqXcmWIw",
    ),
    (
        "Django argon2",
        "argon2$argon2id$v=19$m=102,t=2,p=8$MDEyMzQ1Njc4OWFiY2RlZg$ewtJ+LwIbpZPDBvxDJzpuBV7z3nhEdctU4eR4A/yInQ",
    ),
    (
        "bcrypt 2b",
        "$2b$04$A5E/r3t25Dq8gSnu5ORakexx6JstVRZNzlYzfP.fBkJbe2tQApVdC",
    ),
    (
        "bcrypt 2y",
        "$2y$04$A5E/r3t25Dq8gSnu5ORakexx6JstVRZNzlYzfP.fBkJbe2tQApVdC",
    ),
    (
        "bcrypt 2a",
        "$2a$04$A5E/r3t25Dq8gSnu5ORakexx6JstVRZNzlYzfP.fBkJbe2tQApVdC",
    ),
    (
        "LDAP bcrypt",
        "{CRYPT}$2b$04$A5E/r3t25Dq8gSnu5ORakexx6JstVRZNzlYzfP.fBkJbe2tQApVdC",
    ),
    (
        "scrypt",
        "$scrypt$ln=10,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$gsOufLMBRl5vX1dBwZTyypZ2Sv+yaAC86rKtnKqcALw",
    ),
    (
        "scrypt 32",
        "$scrypt$ln=12,r=8,p=2$MDEyMzQ1Njc4OWFiY2RlZg$iGPo8daoNhlxEh8qSBr+wiwNt5awrDtnVP1tI1xGvi2erNE/Wwm+5S8CwkHWGCpabrtCV1jbgaF2+iNf9xMjXA",
    ),
    (
        "pbkdf2 phc sha1",
        "$pbkdf2-sha1$i=1000$MDEyMzQ1Njc4OWFiY2RlZg$QtwD1qCsURQinQci9EOPl/NV/k4",
    ),
    (
        "pbkdf2 phc l sha1",
        "$pbkdf2-sha1$i=900,l=40$MDEyMzQ1Njc4OWFiY2RlZg$8FrML/FVYEOb/Cti4O4U5ztYOkDEHKXpYfNTMk2c46To00s6UlpYfQ",
    ),
    (
        "pbkdf2 phc sha256",
        "$pbkdf2-sha256$i=1000$MDEyMzQ1Njc4OWFiY2RlZg$uDhxmC3cls/R3Su7sn0b/TYFsu0IoX+6W9bAlCqq3Ck",
    ),
    (
        "pbkdf2 phc l sha256",
        "$pbkdf2-sha256$i=900,l=40$MDEyMzQ1Njc4OWFiY2RlZg$QGsGc+rCK9jqu85y+xKaFWrJUCHPe0lIIc1ipDsCGghJtMwRMIZ5jA",
    ),
    (
        "pbkdf2 phc sha512",
        "$pbkdf2-sha512$i=1000$MDEyMzQ1Njc4OWFiY2RlZg$Rm2zgsu7WOLKnGzrcnRcvSxls9WDUMMOhWSJnt9zNkxdfKNYkrynJ22sy6pxco/S5xIlLzwCxZkcPDSM08rrDA",
    ),
    (
        "pbkdf2 phc l sha512",
        "$pbkdf2-sha512$i=900,l=40$MDEyMzQ1Njc4OWFiY2RlZg$eYxc5a2mAOjjK5ddApgnjdXYTspycpyaj+Can9HmfPn71Afs/I/HRw",
    ),
    (
        "passlib sha256",
        "$pbkdf2-sha256$1000$....MDEyMzQ1Njc4OQ$/eEvVMf1mPVVE1KppYNoy2L5WlsqbAMuKfD0usFDXRU",
    ),
    (
        "passlib sha1",
        "$pbkdf2$1000$MDEyMzQ1Njc4OWFiY2RlZg$QtwD1qCsURQinQci9EOPl/NV/k4",
    ),
    (
        "passlib sha512",
        "$pbkdf2-sha512$1000$MDEyMzQ1Njc4OWFiY2RlZg$Rm2zgsu7WOLKnGzrcnRcvSxls9WDUMMOhWSJnt9zNkxdfKNYkrynJ22sy6pxco/S5xIlLzwCxZkcPDSM08rrDA",
    ),
    (
        "django",
        "pbkdf2_sha256$1000$seaSalt12345$xHdHTfeK5dUQi47/j+dAd338fISFSHT2NGd7JHzWlGY=",
    ),
    (
        "django sha1",
        "pbkdf2_sha1$1000$seaSalt12345$jd8lh5KuwzA1P4lu/sd0ao6iFSQ=",
    ),
    (
        "aspnet v2",
        "ADAxMjM0NTY3ODlhYmNkZWZC3APWoKxRFCKdByL0Q4+X81X+ThcAZXh093jRB6q2tA==",
    ),
    (
        "aspnet v3 sha1",
        "AQAAAAAAAAXcAAAAEDAxMjM0NTY3ODlhYmNkZWZu7YJ6IBncqVxt/6oxpBjdITX6K385O16zqp3Q0D37Pg==",
    ),
    (
        "aspnet v3 sha256",
        "AQAAAAEAAAXcAAAAEDAxMjM0NTY3ODlhYmNkZWZBB+b3TN0YAJbAPcBfNBs1mb1BM7ztHbhaF2hsxoy6xw==",
    ),
    (
        "aspnet v3 sha512",
        "AQAAAAIAAAXcAAAAEDAxMjM0NTY3ODlhYmNkZWaDCgzeWWrhpcA51huEnK/7QJjAq+/0dvT6V67Q/RVmOg==",
    ),
    ("md5", "$md5$656d59ab540923ffae7a2b4ff9f52700"),
    ("md5 base64", "$md5$ZW1Zq1QJI/+ueitP+fUnAA=="),
    (
        "md5 prefix",
        "$md5$s=MDEyMzQ1Njc4OWFiY2RlZg==$a7876ee4eb45a66a7fef51fdd8eb9dcf",
    ),
    (
        "md5 suffix",
        "$md5$s=MDEyMzQ1Njc4OWFiY2RlZg,at=suffix$2631B7F1D2F315D2487687816DD59E33",
    ),
    (
        "hmac md5",
        "$hmac-md5$k=MDEyMzQ1Njc4OWFiY2RlZg==$dd09a815e2051281783cea7ad6f8994e",
    ),
    ("sha1", "$sha1$6cb0ac2d700e0ebefcea5d7421d57f5735931c61"),
    ("sha1 base64", "$sha1$bLCsLXAODr786l10IdV/VzWTHGE="),
    (
        "sha1 prefix",
        "$sha1$s=MDEyMzQ1Njc4OWFiY2RlZg==$b2ead6721ce35e2c2ec0fb6d770d67662d51cdb8",
    ),
    (
        "sha1 suffix",
        "$sha1$s=MDEyMzQ1Njc4OWFiY2RlZg,at=suffix$D61AE367DAAAA57E532ABACB4D3183DC46400B96",
    ),
    (
        "hmac sha1",
        "$hmac-sha1$k=MDEyMzQ1Njc4OWFiY2RlZg==$5be4ad1a30458acb6b860a3c7e41b7115efc916c",
    ),
    (
        "sha256",
        "$sha256$bdb26678b05db252543c87b32f458e2826437f5025f9a889698219edbcf7bc37",
    ),
    (
        "sha256 base64",
        "$sha256$vbJmeLBdslJUPIezL0WOKCZDf1Al+aiJaYIZ7bz3vDc=",
    ),
    (
        "sha256 prefix",
        "$sha256$s=MDEyMzQ1Njc4OWFiY2RlZg==$49aed2784d9e8bff1a58fb71a6424300f04e4ede748c54ad83a4c7edaf0a3163",
    ),
    (
        "sha256 suffix",
        "$sha256$s=MDEyMzQ1Njc4OWFiY2RlZg,at=suffix$C6F83C5E8E44520DA870F2B91296F7DFBE13BA52A084BC75CA8B0751B63FC475",
    ),
    (
        "hmac sha256",
        "$hmac-sha256$k=MDEyMzQ1Njc4OWFiY2RlZg==$4a2c4e9b01138c86df2c1a7967a3bc80d58e8534ae22c2c7e6c9e4b2a1935e51",
    ),
    (
        "sha512",
        "$sha512$f263c5177ee17f65dba32e513cca29e06af8f3762fa620555c73602403636408b920c3098dbcf315d3b2177dacd4e903f6208f08d0b744c151f0bf8986b41cd6",
    ),
    (
        "sha512 base64",
        "$sha512$8mPFF37hf2Xboy5RPMop4Gr483YvpiBVXHNgJANjZAi5IMMJjbzzFdOyF32s1OkD9iCPCNC3RMFR8L+JhrQc1g==",
    ),
    (
        "sha512 prefix",
        "$sha512$s=MDEyMzQ1Njc4OWFiY2RlZg==$3e58065e4bc988b9612d14de1d795e389daf76ba20eaf9128aac384870b2ea2a392edc69467c4b51911442cdab30648a383f71a1a650f46863b11739f786aab2",
    ),
    (
        "sha512 suffix",
        "$sha512$s=MDEyMzQ1Njc4OWFiY2RlZg,at=suffix$357D0887E087D47DDB5AF9C87D9C16AF948241F411ED32D4F3AFD2FAAFBA5D26398EEAF92232784D0BE24D8F71E53A6FECF8DDC4DF3410B9D915828EC3A2CC0E",
    ),
    (
        "hmac sha512",
        "$hmac-sha512$k=MDEyMzQ1Njc4OWFiY2RlZg==$092bc0bd5b9758204c1a14ecbbc250555c4b3a1c3e0ea63bac7dd1970657a7c0cfc3370038ce96fc4dd4c50f48de99abed617cb83d2a7b031bf832e4a837913c",
    ),
    ("LDAP SHA", "{SHA}bLCsLXAODr786l10IdV/VzWTHGE="),
    ("LDAP SSHA", "{SSHA}ooMen454cal4hDbm/5Yqwjsay9NLqTUG"),
    ("LDAP MD5", "{MD5}ZW1Zq1QJI/+ueitP+fUnAA=="),
    ("LDAP SMD5", "{SMD5}WCuAEJdu9HfGDct3LayR+LB2jpE="),
    (
        "LDAP SSHA256",
        "{SSHA256}Vv/S4y2HbqiP3PgNOXHckl3CmMqaIkHRdqpSYQF9pFJjbA2BMGZsbQ==",
    ),
    (
        "LDAP SSHA512",
        "{SSHA512}Bc0oHyFG2xzLnZVk6dYRQwfGlFQy9k5LWEnSLWecFZS5zr9aA5ZQh9wih22Uy5UK63ltiPfoE0v8XNzDik1qOx+DEMJYK2VM",
    ),
    (
        "LDAP SHA256",
        "{SHA256}vbJmeLBdslJUPIezL0WOKCZDf1Al+aiJaYIZ7bz3vDc=",
    ),
    (
        "LDAP SHA512",
        "{SHA512}8mPFF37hf2Xboy5RPMop4Gr483YvpiBVXHNgJANjZAi5IMMJjbzzFdOyF32s1OkD9iCPCNC3RMFR8L+JhrQc1g==",
    ),
    ("crypt MD5", "$1$saltsalt$wxmwlCqYVcM3zlbuFN/S40"),
    (
        "crypt SHA-256",
        "$5$saltstring$PBMVSGONC.r/.NtdVjP8EClZdpEMCHLatl2lNa8EyF2",
    ),
    (
        "crypt SHA-512",
        "$6$saltstring$tevuWUqlEU6zDPjbrgubRumqNvfksftafQGKUZ/41tMMS5kcRk4Z4E7k2fNXHIAn3cmIfZEWsE6.3ZNg4w5l.0",
    ),
    (
        "crypt SHA-256 rounds",
        "$5$rounds=1234$longlongsaltst$LJ8Urls4Uhhrh1kv7LMt4mSusTLrPt8OKmz1UlGFWI0",
    ),
    (
        "crypt SHA-512 rounds",
        "$6$rounds=1234$longlongsaltst$ZHXYuo/P50m9iorypTQ2o.kzVxVyM8KPkzZpw/BOe8rUC82pAC69y7rZAWX4I7yIAvtXuDS0GmKxg2DKz2NDG0",
    ),
    (
        "LDAP crypt",
        "{CRYPT}$6$saltstring$tevuWUqlEU6zDPjbrgubRumqNvfksftafQGKUZ/41tMMS5kcRk4Z4E7k2fNXHIAn3cmIfZEWsE6.3ZNg4w5l.0",
    ),
    ("phpass P", "$P$6abcdefghozj.Rmsf/jbPgNPAcJroz1"),
    ("phpass H", "$H$5abcdefghHOzvFEhSEOGs3sKTaGov5."),
];

/// The example of Firebase's scrypt repository.
const FIREBASE: &str = "$firebase-scrypt$ln=14,r=8$42xEC+ixf3L2lw==$Bw==$\
    jxspr8Ki0RYycVU8zykbdLGjFQ3McFUH0uiiTvC8pVMXAn210wjLNmdZJzxUECKbm0QsEmYUSDzZvpjeJ9WmXA==$\
    lSrfV15cpx95/sZS2W9c9Kp6i/LVgQNDNC/qzrCnh1SAyZvqmZqAjTdn3aoItz+VHjoZilo78198JAdRuid5lQ==";

fn parsed(text: &str) -> StoredHash {
    StoredHash::parse(text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_family_accepts_the_password_and_nothing_else() {
    for (name, text) in VECTORS {
        let hash = parsed(text);
        assert!(hash.verify(PASSWORD.as_bytes()), "{name}");
        assert!(!hash.verify(b"Fuechse im Garten 7!"), "{name}");
        assert!(!hash.verify(b""), "{name}");
    }
}

#[test]
fn firebase_scrypt() {
    let hash = parsed(FIREBASE);
    assert_eq!(hash.memory_kib(), 16 * 1024);
    assert!(hash.verify(b"user1password"));
    assert!(!hash.verify(b"user2password"));
}

#[test]
fn bcrypt_sees_72_bytes() {
    let hash = parsed("$2b$04$MnqLzjVfzq.6Q5DocDjb6OEWwFMUOzbTRCgAXWtD2xTsly841Ln2e");
    assert!(hash.verify("x".repeat(72).as_bytes()));
    assert!(hash.verify("x".repeat(1024).as_bytes()));
    assert!(!hash.verify("x".repeat(71).as_bytes()));
}

#[test]
fn empty_password() {
    assert!(parsed("$1$ab$rn6aQS/o7141mj179E/zA.").verify(b""));
}

#[test]
fn weak_families_are_known() {
    for (name, text) in VECTORS {
        let weak = parsed(text).is_weak();
        let digest = ["md5", "sha", "hmac", "LDAP S", "LDAP MD5", "crypt MD5"];
        assert_eq!(weak, digest.iter().any(|d| name.starts_with(d)), "{name}");
    }
}

/// "Argon2 parameter bomb" and its like: refused when parsed, so at import.
#[test]
fn costs_are_bounded() {
    let bombs = [
        "$argon2id$v=19$m=4194304,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$argon2id$v=19$m=4294967295,t=1,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$argon2id$v=19$m=19456,t=1000000,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$argon2id$v=19$m=262144,t=64,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$argon2id$v=19$m=19456,t=2,p=16777215$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$argon2id$v=19$m=99999999999999,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$2b$31$MnqLzjVfzq.6Q5DocDjb6OEWwFMUOzbTRCgAXWtD2xTsly841Ln2e",
        "$scrypt$ln=30,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$scrypt$ln=18,r=16,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$scrypt$ln=17,r=8,p=16$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$pbkdf2-sha256$i=4000000000$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "$pbkdf2-sha256$i=0$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZg",
        "pbkdf2_sha256$100000000$salt$MDEyMzQ1Njc4OWFiY2RlZg",
        "AQAAAAH/////AAAAEDAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVm",
        "$6$rounds=999999999$saltstring$",
        "$P$Uabcdefg0123456789012345678901.",
    ];
    for bomb in bombs {
        let refused = StoredHash::parse(bomb).err();
        assert!(
            matches!(refused, Some(HashFormatError::OutOfBounds { .. })),
            "{bomb}: {refused:?}"
        );
    }
    assert!(StoredHash::parse(&"$".repeat(3000)).is_err());
}

#[test]
fn what_cannot_be_read_is_named_and_never_echoed() {
    use HashFormatError::{Malformed, Unrecognised, Unsupported};
    type Expected = fn(&HashFormatError) -> bool;
    let table: &[(&str, Expected)] = &[
        ("", |e| *e == Unrecognised),
        ("hunter2", |e| *e == Unrecognised),
        ("$unknown$secretsecret", |e| *e == Unrecognised),
        (
            "$2x$04$MnqLzjVfzq.6Q5DocDjb6OEWwFMUOzbTRCgAXWtD2xTsly841Ln2e",
            |e| matches!(e, Unsupported(_)),
        ),
        ("$y$j9T$secretsecret$secretsecret", |e| {
            matches!(e, Unsupported(_))
        }),
        (
            "$argon2id$v=18$m=64,t=1,p=1$secretsecret$secretsecretsecretsecret",
            |e| matches!(e, Unsupported(_)),
        ),
        (
            "$argon2id$v=19$m=64,m=64,t=1,p=1$secretsecret$secretsecretsecretsecret",
            |e| matches!(e, Malformed { .. }),
        ),
        ("$argon2id$v=19$m=64,t=1,p=1$secretsecret", |e| {
            matches!(e, Malformed { .. })
        }),
        (
            "$argon2id$v=19$m=+64,t=1,p=1$secretsecret$secretsecretsecretsecret",
            |e| matches!(e, Malformed { .. }),
        ),
        ("$2b$04$secret", |e| matches!(e, Malformed { .. })),
        (
            "$2b$04$é00000000000000000000000000000000000000000000000000000",
            |e| matches!(e, Malformed { .. }),
        ),
        ("$md5$secret", |e| matches!(e, Malformed { .. })),
        ("$hmac-md5$k=secret", |e| matches!(e, Malformed { .. })),
        ("{SSHA}c2VjcmV0", |e| matches!(e, Malformed { .. })),
        ("{CLEARTEXT}secret", |e| matches!(e, Unsupported(_))),
        ("$1$salt$secret", |e| matches!(e, Malformed { .. })),
        ("$P$secret", |e| matches!(e, Malformed { .. })),
        ("pbkdf2_sha256$1000$salt", |e| matches!(e, Malformed { .. })),
    ];
    for (text, expected) in table {
        let error = StoredHash::parse(text)
            .err()
            .unwrap_or_else(|| panic!("{text} was accepted"));
        assert!(expected(&error), "{text}: {error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn parsing_never_panics(prefix in "(\\$(argon2id|2b|scrypt|firebase-scrypt|pbkdf2-sha1|md5|hmac-sha1|1|5|6|P|H)\\$|\\{SSHA\\}|pbkdf2_sha1\\$|argon2\\$)?", rest in ".{0,120}") {
        let _ = StoredHash::parse(&format!("{prefix}{rest}"));
    }
}
