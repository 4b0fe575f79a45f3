//! stub
use crate::args::BenchArguments;
use crate::session::{Outcome, Session};
use imgx_engine::base::Result;
pub fn run(_arguments: &BenchArguments, _session: &Session) -> Result<Outcome> {
    Ok(Outcome::Failed)
}
