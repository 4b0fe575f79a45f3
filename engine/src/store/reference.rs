//! References: which image `latest`, a name, `NAME~N` or an id's first digits mean. The first three
//! count by order, so a damaged manifest may shift them: whoever asks is told.

use std::sync::atomic::Ordering;

use super::digest::ImageId;
use super::repository::{Image, Images, MANIFEST_SUFFIX};
use crate::base::{Error, ErrorKind, Event, Observer, Result};

const SHORTEST_PREFIX: usize = 4;

/// Damaged manifests that are named; the number is of all.
const NAMED: usize = 16;

impl Images {
    /// The images of a name, newest first.
    pub fn of_name<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Image> {
        self.images.iter().filter(move |image| image.manifest.name == name)
    }

    /// The newest image of a name; `observer` is told if it may be another.
    #[must_use]
    pub fn newest(&self, name: &str, observer: &dyn Observer) -> Option<&Image> {
        self.tell_doubt(observer);
        self.of_name(name).next()
    }

    /// The image that `reference` means: `latest`, a name (its newest), either with `~N` (so many
    /// before), or an id's first 4 or more digits. Where damaged manifests may make it another,
    /// `observer` is told, once.
    ///
    /// # Errors
    /// `NotFound` or `Invalid`, saying what there is; that of the manifest which an id means.
    pub fn resolve(&self, reference: &str, observer: &dyn Observer) -> Result<&Image> {
        let (word, back) = split_reference(reference)?;
        let named = |image: &&Image| word == "latest" || image.manifest.name == word;
        let count = self.images.iter().filter(named).count();
        if count > 0 {
            self.tell_doubt(observer);
            return self.images.iter().filter(named).nth(back).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("'{reference}': only {count} images"))
            });
        }
        let is_prefix =
            word.len() >= SHORTEST_PREFIX && word.chars().all(|digit| digit.is_ascii_hexdigit());
        let found = if is_prefix && back == 0 { self.with_digits(word)? } else { None };
        found.ok_or_else(|| {
            self.tell_doubt(observer);
            let (place, count) = (&self.place, self.images.len());
            let context =
                format!("no image '{reference}' in {place}: it holds {count} (see `imgx images`)");
            Error::new(ErrorKind::NotFound, context)
        })
    }

    /// The one image whose id begins with `digits`: a damaged one is meant as well as a sound one.
    fn with_digits(&self, digits: &str) -> Result<Option<&Image>> {
        let lower = digits.to_ascii_lowercase();
        let is_meant = |id: &ImageId| id.to_string().starts_with(&lower);
        let sound = self.images.iter().filter(|image| is_meant(&image.id));
        let damaged = self.damaged.iter().filter_map(|(name, error)| {
            let id = ImageId::from_hex(name.name.strip_suffix(MANIFEST_SUFFIX)?)?;
            is_meant(&id).then_some((id, Err(error)))
        });
        let mut found = sound.map(|image| (image.id, Ok(image))).chain(damaged);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((_, Ok(image))), None) => Ok(Some(image)),
            (Some((id, Err(error))), None) => {
                Err(Error::new(error.kind(), format!("image {id}: {error}")))
            }
            (Some((one, _)), Some((other, _))) => Err(Error::new(
                ErrorKind::Invalid,
                format!("'{digits}' means several images: {one}, {other}, ..."),
            )),
        }
    }

    /// Tells, once, that the order of images lacks those whose manifests are damaged.
    fn tell_doubt(&self, observer: &dyn Observer) {
        if self.damaged.is_empty() || self.is_doubt_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let stem = |name: &str| name.strip_suffix(MANIFEST_SUFFIX).unwrap_or(name).to_owned();
        let names = self.damaged.iter().take(NAMED).map(|(name, _)| stem(&name.name));
        let mut names = names.collect::<Vec<_>>().join(", ");
        if self.damaged.len() > NAMED {
            names.push_str(", ...");
        }
        let are = match self.damaged.len() {
            1 => "1 manifest is".to_owned(),
            count => format!("{count} manifests are"),
        };
        let message = format!(
            "{are} damaged or of a later version ({names}): the newest image may be among them, \
             and what is named by order (latest, NAME, NAME~N) is counted without them"
        );
        observer.event(&Event::Doubt { message: &message });
    }
}

/// Splits `NAME~N` into name and number.
fn split_reference(reference: &str) -> Result<(&str, usize)> {
    let Some((word, back)) = reference.rsplit_once('~') else { return Ok((reference, 0)) };
    match back.parse() {
        Ok(back) => Ok((word, back)),
        Err(_) => Err(Error::new(
            ErrorKind::Invalid,
            format!("image '{reference}': expected a number after '~', found '{back}'"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_at_their_last_tilde() {
        assert_eq!(split_reference("web~2").ok(), Some(("web", 2)));
        assert_eq!(split_reference("web").ok(), Some(("web", 0)));
        assert!(split_reference("web~x").is_err());
    }
}
