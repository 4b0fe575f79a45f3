//! Programs and their links to tracepoints.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

use super::call::{
    Command, Information, LoadProgram, OpenTracepoint, address, address_mut, bpf, bpf_descriptor,
    number, short_name,
};
use crate::base::{Error, ErrorContext, ErrorKind, Result, fields};

/// `BPF_PROG_TYPE_TRACING`.
const TRACING: u32 = 26;
/// `BPF_TRACE_RAW_TP`.
const RAW_TRACEPOINT: u32 = 23;
/// The kernel lends its structures to programs under the GPL only; this is what it accepts for
/// programs that stand under the MIT licence too.
const LICENSE: &[u8] = b"Dual MIT/GPL\0";
/// Bytes of the verifier's report, of which only the end is shown.
const LOG_SIZE: usize = 1 << 20;
/// Times that a program is loaded at most while the kernel says to try again.
const LOAD_ATTEMPTS: u32 = 20;
/// Bytes of that report that an error shows at most.
const LOG_SHOWN: usize = 600;
/// Bytes of `struct bpf_prog_info` up to `recursion_misses`, and where that stands.
const INFORMATION_SIZE: usize = 216;
const RECURSION_MISSES: usize = 208;

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    descriptor: OwnedFd,
}

impl Program {
    /// Has the kernel verify `instructions` as a program for the tracepoint whose type
    /// (`btf_trace_NAME`) is `tracepoint`.
    ///
    /// # Errors
    /// `Unsupported` with the end of the verifier's report; the kernel's otherwise.
    pub fn load(name: &str, instructions: &[u64], tracepoint: u32) -> Result<Self> {
        // The kernel gives up verifying when a signal comes meanwhile.
        let mut loaded = Self::try_load(name, instructions, tracepoint, &mut []);
        for _ in 1..LOAD_ATTEMPTS {
            if loaded.as_ref().err() != Some(&Errno::EAGAIN) {
                break;
            }
            loaded = Self::try_load(name, instructions, tracepoint, &mut []);
        }
        match loaded {
            Ok(program) => Ok(program),
            Err(Errno::EPERM) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "load the BPF program {name}: not permitted; it needs CAP_BPF, CAP_PERFMON \
                     and a kernel that is not locked down for confidentiality"
                ),
            )),
            // The report is asked for only now: it makes verifying slow.
            Err(first) => {
                let mut log = vec![0; LOG_SIZE];
                match Self::try_load(name, instructions, tracepoint, &mut log) {
                    Ok(program) => Ok(program),
                    Err(_) => Err(rejected(name, first, &log)),
                }
            }
        }
    }

    fn try_load(
        name: &str,
        instructions: &[u64],
        tracepoint: u32,
        log: &mut [u8],
    ) -> nix::Result<Self> {
        let mut argument = LoadProgram {
            kind: TRACING,
            instruction_count: u32::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?,
            instructions: address(instructions),
            license: address(LICENSE),
            name: short_name(name),
            expected_attach_type: RAW_TRACEPOINT,
            attach_type_id: tracepoint,
            ..LoadProgram::default()
        };
        if !log.is_empty() {
            argument.log_level = 1;
            argument.log_size = u32::try_from(log.len()).map_err(|_| Errno::E2BIG)?;
            argument.log = address_mut(log);
        }
        let descriptor = bpf_descriptor(Command::ProgramLoad, &mut argument)?;
        Ok(Self { descriptor })
    }

    /// The program behind a descriptor that somebody else made.
    #[must_use]
    pub fn adopt(descriptor: OwnedFd) -> Self {
        Self { descriptor }
    }

    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// How often it was not run because it interrupted itself (`recursion_misses`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn recursion_misses(&self) -> Result<u64> {
        let mut information = [0; INFORMATION_SIZE];
        let mut argument = Information {
            descriptor: number(&self.descriptor),
            length: u32::try_from(INFORMATION_SIZE).expect("a small constant"),
            address: address_mut(&mut information),
        };
        bpf(Command::ObjectInfo, &mut argument).context(|| "ask about a BPF program")?;
        Ok(fields::le64(&information, RECURSION_MISSES).unwrap_or(0))
    }

    /// Attaches it to its tracepoint.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self) -> Result<Link> {
        let program = self.descriptor.as_raw_fd().cast_unsigned();
        let mut argument = OpenTracepoint { name: 0, program, padding: 0 };
        let descriptor = bpf_descriptor(Command::RawTracepointOpen, &mut argument)
            .context(|| "attach a BPF program to its tracepoint")?;
        Ok(Link { descriptor })
    }
}

fn rejected(name: &str, errno: Errno, log: &[u8]) -> Error {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = &log[end.saturating_sub(LOG_SHOWN)..end];
    let report = String::from_utf8_lossy(log).trim().replace('\n', "; ");
    let context = format!("the kernel refuses the BPF program {name} ({}): {report}", errno.desc());
    Error::new(ErrorKind::Unsupported, context)
}

/// A program's attachment; it ends with its last descriptor or pin.
#[derive(Debug)]
pub struct Link {
    descriptor: OwnedFd,
}

impl Link {
    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }
}
