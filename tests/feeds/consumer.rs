//! A consumer of a feed, and people for it to follow.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::server::{Answer, PASSWORD, Server, notice};

/// What a consumer does with a feed's records: it keeps the newest state of each subject.
#[derive(Debug, Default)]
pub struct Consumer {
    pub key: String,
    pub feed: String,
    pub cursor: Option<String>,
    /// The fields of each subject that it may know now.
    pub subjects: BTreeMap<String, Value>,
    /// All records, in the order of their arrival.
    pub records: Vec<Value>,
}

impl Consumer {
    /// A consumer whose key is good for this feed only.
    pub async fn of(server: &Server, feed: &str) -> Self {
        let body = json!({"name": "a consumer", "scopes": [format!("feeds:read:{feed}")]});
        let key = server
            .post("/v1/api-keys")
            .admin()
            .json(&body)
            .send()
            .await
            .expect(201);
        Self {
            key: key.text("api_key").to_owned(),
            feed: feed.to_owned(),
            ..Self::default()
        }
    }

    pub async fn ask(&self, server: &Server, query: &str, after: &str) -> Answer {
        let path = format!("/v1/feeds/{}/events?{query}", self.feed);
        server
            .get(&path)
            .auth(&self.key)
            .with("gatelog-min-position", after)
            .send()
            .await
    }

    /// Waits until the feed has all that was written at these positions. Nothing is told by it.
    pub async fn sees(&self, server: &Server, positions: &[String]) {
        let path = format!("/v1/feeds/{}/status", self.feed);
        for position in positions {
            let asked = server.get(&path).auth(&self.key);
            let asked = asked.with("gatelog-min-position", position);
            asked.send().await.expect(200);
        }
    }

    /// One page; whether there is more.
    pub async fn page(&mut self, server: &Server, query: &str, after: &str) -> bool {
        let query = match &self.cursor {
            Some(cursor) => format!("{query}&after={cursor}"),
            None => query.to_owned(),
        };
        let page = self.ask(server, &query, after).await.expect(200);
        for event in page.body["events"].as_array().unwrap() {
            self.take(event);
        }
        self.cursor = Some(page.text("next").to_owned());
        page.body["more"].as_bool().unwrap()
    }

    /// Reads on until there is nothing more; `after` is a position that must be seen.
    pub async fn catch_up(&mut self, server: &Server, query: &str, after: &str) {
        while self.page(server, query, after).await {}
    }

    pub fn take(&mut self, event: &Value) {
        let subject = event["subject"].as_str().unwrap().to_owned();
        match event["data"].get("fields") {
            Some(fields) => self.subjects.insert(subject, fields.clone()),
            None => self.subjects.remove(&subject),
        };
        self.records.push(event.clone());
    }

    /// The kinds of the records, in order.
    pub fn kinds(&self) -> Vec<&str> {
        self.records
            .iter()
            .map(|r| {
                let name = r["type"]
                    .as_str()
                    .unwrap()
                    .strip_prefix("com.gatelog.feed.")
                    .unwrap();
                name.strip_suffix(".v1").unwrap()
            })
            .collect()
    }

    pub fn emails(&self) -> Vec<&str> {
        let mut all: Vec<_> = self
            .subjects
            .values()
            .filter_map(|f| f["email"].as_str())
            .collect();
        all.sort_unstable();
        all
    }
}

/// The newest position that a test wrote, to be waited for.
pub fn position(answer: &Answer) -> String {
    answer.text("position").to_owned()
}

pub async fn define(server: &Server, feed: &str, definition: &Value) -> String {
    let path = format!("/v1/feeds/{feed}");
    position(
        &server
            .put(&path)
            .admin()
            .json(definition)
            .send()
            .await
            .expect(200),
    )
}

/// A feed of those who take the newsletter.
pub async fn define_marketing(server: &Server) -> String {
    let definition = json!({
        "purpose": "newsletter", "fields": ["email", "given_name", "locale", "plan"],
        "events": ["user.profile_changed", "user.email_changed", "plan.upgraded"],
    });
    define(server, "marketing", &definition).await
}

/// A user's id and the position of the registration.
pub async fn register(server: &Server, name: &str, consents: bool) -> (String, String) {
    let body = json!({
        "email": format!("{name}@example.com"), "password": PASSWORD, "locale": "de",
        "profile": {"given_name": name, "family_name": "Secretname"},
        "consents": [{"purpose": "newsletter", "channel": "email", "granted": consents, "notice": notice()}],
    });
    let answer = server
        .post("/v1/registrations")
        .admin()
        .json(&body)
        .send()
        .await
        .expect(201);
    (answer.text("user_id").to_owned(), position(&answer))
}

pub async fn consent(server: &Server, user: &str, purpose: &str, granted: bool) -> String {
    let body = json!({"granted": granted, "channel": "email", "notice": notice()});
    let path = format!("/v1/users/{user}/consents/{purpose}");
    position(&server.put(&path).admin().json(&body).send().await.expect(200))
}

pub async fn upgrade(server: &Server, user: &str, plan: &str) -> String {
    let path = format!("/v1/users/{user}/plan");
    position(
        &server
            .put(&path)
            .admin()
            .json(&json!({"plan": plan}))
            .send()
            .await
            .expect(200),
    )
}

pub async fn rename(server: &Server, user: &str, name: &str) -> String {
    let path = format!("/v1/users/{user}/profile");
    let body = json!({"given_name": name});
    let call = server.call(reqwest::Method::PATCH, &path).admin().json(&body);
    position(&call.send().await.expect(200))
}

pub async fn status(server: &Server, user: &str, status: &str) -> String {
    let path = format!("/v1/users/{user}/status");
    position(
        &server
            .put(&path)
            .admin()
            .json(&json!({"status": status}))
            .send()
            .await
            .expect(200),
    )
}

pub async fn erase(server: &Server, user: &str) -> String {
    let path = format!("/v1/users/{user}");
    position(&server.delete(&path).admin().send().await.expect(200))
}
