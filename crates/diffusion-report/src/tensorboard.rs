//! Event files for TensorBoard.
//!
//! A file is a list of TFRecords. A record has a length, the checksum of the length, an event and
//! the checksum of the event. The checksums are CRC-32C, rotated and shifted.
//!
//! An event is a protocol buffer, `tensorflow.Event`. Its fields are wall_time = 1 (double), step =
//! 2 (int64), file_version = 3 (string), summary = 5 and session_log = 7. A summary's value (field
//! 1) has a tag = 1 (string) and simple_value = 2 (float).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use diffusion_files::FileError;

use crate::ReportError;

/// An event file that is open for writing.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
    path: PathBuf,
}

impl EventWriter {
    /// Creates an event file in `folder`, and the folder if it does not exist. TensorBoard then
    /// hides events after `step` from older files in `folder`.
    ///
    /// # Errors
    /// An I/O error of the operating system.
    pub fn create(folder: &Path, step: u64) -> Result<Self, ReportError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!("events.out.tfevents.{}.{:09}", now.as_secs(), now.subsec_nanos());
        let path = folder.join(name);
        fs::create_dir_all(folder).map_err(FileError::io(&path))?;
        let file = BufWriter::new(File::create(&path).map_err(FileError::io(&path))?);
        let mut writer = Self { file, path };
        writer.event(0, |event| bytes(event, 3, b"brain.Event:2"))?;
        // The start of a session (status 1) replaces earlier events from its step on.
        writer.event(step + 1, |event| bytes(event, 7, &[0x08, 1]))?;
        Ok(writer)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the scalars of one step, each with its tag. They are flushed at once, so readers see
    /// them.
    ///
    /// # Errors
    /// An I/O error of the operating system.
    pub fn scalars(
        &mut self,
        step: u64,
        scalars: impl IntoIterator<Item = (impl AsRef<str>, f64)>,
    ) -> Result<(), ReportError> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes(&mut entry, 1, tag.as_ref().as_bytes());
            // Field 2, 32 bits.
            entry.push(2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            bytes(&mut summary, 1, &entry);
        }
        self.event(step, |event| bytes(event, 5, &summary))?;
        Ok(self.file.flush().map_err(FileError::io(&self.path))?)
    }

    fn event(&mut self, step: u64, content: impl FnOnce(&mut Vec<u8>)) -> Result<(), ReportError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        // Field 1, 64 bits; field 2, a varint.
        let mut event = vec![1 << 3 | 1];
        event.extend(now.to_le_bytes());
        event.push(2 << 3);
        varint(&mut event, step);
        content(&mut event);
        Ok(self.file.write_all(&record(&event)).map_err(FileError::io(&self.path))?)
    }
}

/// Appends a field of bytes.
fn bytes(message: &mut Vec<u8>, field: u8, content: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, content.len() as u64);
    message.extend(content);
}

/// Appends a varint: seven bits per byte, the lowest first; the top bit is set if more bytes
/// follow.
fn varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

/// An event framed as a TFRecord.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [length.as_slice(), &masked_crc(&length), event, &masked_crc(event)].concat()
}

/// CRC-32C, masked because a CRC of data that contain CRCs is unreliable.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The event has only wall_time = 1.0 and step = 300; TensorFlow's own writer frames it like
    /// this.
    #[test]
    fn a_record_is_framed_as_the_format_says() {
        let mut event = vec![0x09];
        event.extend(1f64.to_le_bytes());
        event.push(0x10);
        varint(&mut event, 300);
        assert_eq!(event[9..], [0x10, 0xac, 0x02]);
        let framed = record(&event);
        assert_eq!(framed.len(), 8 + 4 + event.len() + 4);
        assert_eq!(framed[..8], 12u64.to_le_bytes());
        // The checksum of "123456789" is the published check value of CRC-32C.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        let unmasked =
            u32::from_le_bytes(framed[8..12].try_into().unwrap()).wrapping_sub(0xa282_ead8);
        assert_eq!(unmasked.rotate_left(15), crc32c::crc32c(&framed[..8]));
    }

    #[test]
    fn a_file_holds_its_version_a_session_start_and_the_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 7).unwrap();
        writer.scalars(8, [("loss", 0.5), ("lr", 1e-3)]).unwrap();
        let file = fs::read(writer.path()).unwrap();
        let mut rest = file.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            events.push(rest[12..12 + length].to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(events.len(), 3);
        assert!(events[0].ends_with(b"brain.Event:2"));
        assert!(events[1].ends_with(&[0x10, 8, 7 << 3 | 2, 2, 0x08, 1]));
        let loss = [b"\x0a\x04loss\x15".as_slice(), &0.5f32.to_le_bytes()].concat();
        assert!(events[2].windows(loss.len()).any(|window| window == loss));
    }
}
