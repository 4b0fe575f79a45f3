//! stub
use crate::args::DemoArguments;
use crate::session::{Outcome, Session};
use imgx_engine::base::Result;
pub fn run(_arguments: &DemoArguments, _session: &Session) -> Result<Outcome> {
    Ok(Outcome::Failed)
}
