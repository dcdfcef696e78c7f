//! A rebuilt table takes over from the one that serves, at a moment when both know the same.

use gatelog_projections::catch_up::catch_up;
use gatelog_projections::folder::Folder;

use super::takeover::Parts;

/// A rebuilt table on its way to take over.
pub(super) struct Swap {
    /// Holds the new table only.
    pub folder: Folder,
    /// Said once: how it ended.
    pub finished: tokio::sync::watch::Sender<Option<Result<(), String>>>,
}

impl Swap {
    pub fn projection(&self) -> &'static str {
        self.folder.members().first().map_or("", |m| m.projection.name())
    }

    /// Folds the rest, while nobody appends, and lets the new table serve.
    pub fn take_over(mut self, parts: &Parts, owner: &mut Folder) {
        let result = self.try_take_over(parts, owner);
        self.finished.send_replace(Some(result));
    }

    fn try_take_over(&mut self, parts: &Parts, owner: &mut Folder) -> Result<(), String> {
        catch_up(
            &mut self.folder,
            parts.log.as_ref(),
            parts.keys.as_ref(),
            |_, _| {},
        )
        .map_err(|e| e.to_string())?;
        let done = Folder::new(parts.store.clone(), Vec::new());
        let Some(member) = std::mem::replace(&mut self.folder, done).into_members().pop() else {
            return Err("there is no table to take over".to_owned());
        };
        if let Some(stopped) = member.mark.applied.stopped().first() {
            return Err(format!(
                "the new table stopped at {}: {}",
                stopped.position, stopped.reason
            ));
        }
        let (name, mark) = (member.projection.name(), member.mark.clone());
        parts
            .store
            .activate(name, &mark.table)
            .map_err(|e| e.to_string())?;
        owner.replace(member);
        parts.views.serve(name, mark.table, mark.applied);
        Ok(())
    }

    pub fn fail(self, reason: String) {
        self.finished.send_replace(Some(Err(reason)));
    }
}
