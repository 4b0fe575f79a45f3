//! Storage that fails one operation with `EIO`, whichever is asked for, counts them all, and lets
//! a test look on before each.
#![allow(dead_code)]

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imgx_engine::base::{Error, Result};
use imgx_engine::store::Storage;
use imgx_engine::store::storage::{Folder, ObjectInfo, ObjectName, ObjectReader, ObjectWriter};

const EIO: i32 = 5;

#[derive(Default)]
struct Plan {
    /// Operations so far.
    count: u64,
    /// Operations that succeed before one fails.
    left: Option<u64>,
    /// What failed: operation and object.
    failed: Option<String>,
}

/// Storage over other storage.
#[derive(Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    plan: Arc<Mutex<Plan>>,
    listed: Arc<AtomicUsize>,
    watch: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl FaultyStorage {
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, plan: Arc::default(), listed: Arc::default(), watch: None }
    }

    /// Calls `watch` before each operation, and in the midst of each that appends.
    pub fn watched_by(self, watch: impl Fn() + Send + Sync + 'static) -> Self {
        Self { watch: Some(Arc::new(watch)), ..self }
    }

    fn look_on(&self) {
        if let Some(watch) = &self.watch {
            watch();
        }
    }

    /// Fails the operation behind the next `number`.
    pub fn fail(&self, number: u64) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        *plan = Plan { left: Some(number), ..Plan::default() };
    }

    /// Operations since the last time that this was asked.
    pub fn operations(&self) -> u64 {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut plan.count)
    }

    /// Objects that listings gave so far.
    pub fn listed(&self) -> usize {
        self.listed.load(Ordering::Relaxed)
    }

    /// The operation and object that failed, if it came to that.
    pub fn failed(&self) -> Option<String> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).failed.clone()
    }

    fn step(&self, operation: &str, object: &str) -> Result<()> {
        self.look_on();
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.count += 1;
        match plan.left {
            Some(0) => {
                plan.left = None;
                plan.failed = Some(format!("{operation} {object}"));
                let error = io::Error::from_raw_os_error(EIO);
                Err(Error::io(format!("{operation} {object}"), error))
            }
            Some(left) => {
                plan.left = Some(left - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Storage for FaultyStorage {
    fn describe(&self) -> String {
        "faulty storage".to_owned()
    }

    fn list(&self, folder: Folder, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ObjectInfo>> {
        self.step("list", folder.path())?;
        let objects = self.inner.list(folder, is_wanted)?;
        self.listed.fetch_add(objects.len(), Ordering::Relaxed);
        Ok(objects)
    }

    fn create(&self, object: &ObjectName) -> Result<Box<dyn ObjectWriter>> {
        self.step("create", &object.to_string())?;
        let (inner, name) = (self.inner.create(object)?, object.to_string());
        Ok(Box::new(FaultyWriter { inner, name, storage: self.clone() }))
    }

    fn reopen(&self, object: &ObjectName, length: u64) -> Result<Box<dyn ObjectWriter>> {
        self.step("reopen", &object.to_string())?;
        let (inner, name) = (self.inner.reopen(object, length)?, object.to_string());
        Ok(Box::new(FaultyWriter { inner, name, storage: self.clone() }))
    }

    fn open(&self, object: &ObjectName) -> Result<Box<dyn ObjectReader>> {
        self.step("open", &object.to_string())?;
        let (inner, name) = (self.inner.open(object)?, object.to_string());
        Ok(Box::new(FaultyReader { inner, name, storage: self.clone() }))
    }

    fn rename(&self, from: &ObjectName, to: &str) -> Result<()> {
        self.step("rename", &from.to_string())?;
        self.inner.rename(from, to)
    }

    fn replace(&self, from: &ObjectName, damaged: &str) -> Result<()> {
        self.step("replace", damaged)?;
        self.inner.replace(from, damaged)
    }

    fn remove(&self, object: &ObjectName) -> Result<()> {
        self.step("remove", &object.to_string())?;
        self.inner.remove(object)
    }

    fn sync_folder(&self, folder: Folder) -> Result<()> {
        self.step("sync", folder.path())?;
        self.inner.sync_folder(folder)
    }

    fn hold(&self, object: &ObjectName, content: &[u8]) -> Result<Box<dyn Send + Sync>> {
        self.step("hold", &object.to_string())?;
        self.inner.hold(object, content)
    }

    fn is_held(&self, object: &ObjectName) -> Result<bool> {
        self.step("look at", &object.to_string())?;
        self.inner.is_held(object)
    }

    fn is_of_this_system(&self) -> bool {
        self.inner.is_of_this_system()
    }
}

struct FaultyWriter {
    inner: Box<dyn ObjectWriter>,
    name: String,
    storage: FaultyStorage,
}

impl ObjectWriter for FaultyWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.storage.step("append to", &self.name) {
            // Half of it was written.
            self.inner.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        if self.storage.watch.is_none() {
            return self.inner.append(bytes);
        }
        let (front, back) = bytes.split_at(bytes.len() / 2);
        self.inner.append(front)?;
        self.storage.look_on();
        self.inner.append(back)
    }

    fn flush(&mut self) -> Result<()> {
        self.storage.step("flush", &self.name)?;
        self.inner.flush()
    }

    fn sync(&mut self) -> Result<()> {
        self.storage.step("sync", &self.name)?;
        self.inner.sync()
    }
}

struct FaultyReader {
    inner: Box<dyn ObjectReader>,
    name: String,
    storage: FaultyStorage,
}

impl ObjectReader for FaultyReader {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if let Err(error) = self.storage.step("read", &self.name) {
            buffer.fill(0x77);
            return Err(error);
        }
        self.inner.read_exact_at(offset, buffer)
    }
}
