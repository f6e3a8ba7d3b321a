//! What a session does with scripts and functions.

use std::rc::Rc;

use super::output::Last;
use super::requests::{Handled, verb_of};
use super::session::Session;
use crate::backend::ReplySink;
use crate::command::{Program, ProgramsVerb};
use crate::config::Listener;
use crate::coordinator::{Request, Verdict};
use crate::metrics::Outcome;
use crate::topology::View;

impl Session {
    /// Runs a script or a function.
    pub(super) fn handle_run(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        program: Program,
        request: &Request<'_>,
    ) {
        let slot = self.open_slot(verb_of(request.row));
        self.note(slot, request.row, request.frame);
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut out = Vec::new();
        let (coordinator, number) = (&self.worker.coordinator, self.listener);
        let verdict = coordinator.dispatch_program(view, listener, number, program, request, &sink, slot, &mut out);
        if out.starts_with(b"-NOSCRIPT") {
            self.count_failed(request.row, Outcome::Refused);
        }
        self.settle_at_once(verdict, slot, &out);
    }

    /// What is told to all nodes is neither overtaken by what came before it nor by what comes after it: a script that was
    /// loaded can be run by the next request of the same pipeline.
    pub(super) fn handle_programs(
        self: &Rc<Self>,
        view: &Rc<View>,
        listener: &Listener,
        verb: ProgramsVerb,
        request: &Request<'_>,
    ) -> Handled {
        if !self.takes_its_turn() {
            return Handled::NotYet;
        }
        // Programs are the same in all databases.
        let base = (view.database() != 0).then(|| self.worker.view());
        let view = base.as_ref().unwrap_or(view);
        let slot = self.open_slot(verb_of(request.row));
        let sink: Rc<dyn ReplySink> = Rc::<Self>::clone(self);
        let mut out = Vec::new();
        let verdict = self.worker.coordinator.dispatch_programs(view, listener, verb, request, &sink, slot, &mut out);
        self.settle_at_once(verdict, slot, &out);
        Handled::Yes
    }

    fn settle_at_once(&self, verdict: Verdict, slot: u32, out: &[u8]) {
        if let Verdict::Answered(outcome) = verdict {
            self.settle(&mut self.inner.borrow_mut(), slot, out, Last::Yes, outcome);
        }
    }
}
