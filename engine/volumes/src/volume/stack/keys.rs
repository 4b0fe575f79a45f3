//! The keys of encrypted volumes: who is asked for them, and which were found.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::{Error, ErrorKind, ReadAt, Result};
use crate::kind::Kind;
use crate::volume::layout::{DiskLayout, Volume};
use crate::volume::luks::{Header, Secret, VolumeKey};
use crate::volume::select::is_meant;

/// Asked for the secret of a volume for which none was given; `None` if there is none.
pub type Ask = dyn Fn(&Volume) -> Result<Option<Secret>> + Send + Sync;

/// A header, and the key that was found for what it encrypts.
type Unlocked = (Header, Arc<VolumeKey>);

/// Keys of encrypted volumes. What they open is remembered, so that a disk can be opened again
/// without the time that a passphrase takes. Nothing of them is ever written anywhere.
#[derive(Default)]
pub struct Keys {
    secrets: Vec<Given<Secret>>,
    headers: Vec<Given<Arc<dyn ReadAt>>>,
    ask: Option<Box<Ask>>,
    /// What was opened.
    known: Mutex<Vec<Unlocked>>,
}

/// Something that was given for the volume that a selector means.
struct Given<T> {
    selector: String,
    value: T,
    is_used: AtomicBool,
}

impl<T> Given<T> {
    fn new(selector: String, value: T) -> Self {
        Self { selector, value, is_used: AtomicBool::new(false) }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// The same with `secret` for the volume that `selector` means: a name as in a layout, or
    /// `UUID=` and the like.
    #[must_use]
    pub fn with_secret(mut self, selector: String, secret: Secret) -> Self {
        self.secrets.push(Given::new(selector, secret));
        self
    }

    /// The same with a LUKS header that is kept apart from the volume that `selector` means.
    #[must_use]
    pub fn with_header(mut self, selector: String, header: Arc<dyn ReadAt>) -> Self {
        self.headers.push(Given::new(selector, header));
        self
    }

    /// The same, asking for the secrets of all volumes for which none was given.
    #[must_use]
    pub fn asking(mut self, ask: Box<Ask>) -> Self {
        self.ask = Some(ask);
        self
    }

    /// Whether there are none, and nobody is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.headers.is_empty() && self.ask.is_none()
    }

    /// The header of `volume` and its key, if it is encrypted and there is a secret.
    ///
    /// # Errors
    /// `Key` when the secret is a wrong one; those of [`Header::read`], [`Header::unlock`] and of
    /// who is asked.
    pub(super) fn unlock(
        &self,
        volume: &Volume,
        bytes: &Arc<dyn ReadAt>,
    ) -> Result<Option<Unlocked>> {
        let detached = meant(&self.headers, volume).map(|given| &given.value);
        if detached.is_none() && !volume.holds(Kind::Luks) {
            return Ok(None);
        }
        let secret = meant(&self.secrets, volume).map(|given| &given.value);
        if secret.is_none() && self.ask.is_none() && detached.is_none() {
            return Ok(None);
        }
        let device = detached.unwrap_or(bytes).as_ref();
        let Some(header) = Header::read(device)? else { return Ok(None) };
        if let Some(known) = self.known(&header) {
            return Ok(Some(known));
        }
        let asked = match (secret, &self.ask) {
            (None, Some(ask)) => ask(volume)?,
            _ => None,
        };
        let Some(secret) = secret.or(asked.as_ref()) else { return Ok(None) };
        let key = Arc::new(header.unlock(device, secret)?);
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((header.clone(), Arc::clone(&key)));
        Ok(Some((header, key)))
    }

    fn known(&self, header: &Header) -> Option<Unlocked> {
        let all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(known, _)| known == header).cloned()
    }

    /// Checks that all that was given was for a volume that there is: `layout` is what was opened.
    ///
    /// # Errors
    /// `NotFound`, listing the volumes, where something was for none; `Invalid` where it was for
    /// one that is not encrypted.
    pub fn check_used(&self, layout: &DiskLayout) -> Result<()> {
        let volumes = &layout.volumes;
        let unused = unused(&self.secrets).or_else(|| unused(&self.headers));
        let Some(selector) = unused else { return Ok(()) };
        let meant = volumes.iter().find(|volume| is_meant(volume, selector));
        if let Some(volume) = meant {
            let context = format!("volume {} is not encrypted with LUKS", volume.name);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let names: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
        let context = format!("no volume {selector} to unlock: there are {}", names.join(", "));
        Err(Error::new(ErrorKind::NotFound, context))
    }
}

fn meant<'a, T>(all: &'a [Given<T>], volume: &Volume) -> Option<&'a Given<T>> {
    let given = all.iter().find(|given| is_meant(volume, &given.selector))?;
    given.is_used.store(true, Ordering::Relaxed);
    Some(given)
}

fn unused<T>(all: &[Given<T>]) -> Option<&str> {
    let unused = all.iter().find(|given| !given.is_used.load(Ordering::Relaxed))?;
    Some(&unused.selector)
}
