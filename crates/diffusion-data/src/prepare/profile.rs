//! Colour profiles (ICC.1:2010) and animations: what a decoder leaves out.

/// Whether an RGB profile describes other colours than sRGB. Profiles of grey pictures and damaged
/// ones do not count.
pub(crate) fn is_other_than_srgb(icc: &[u8]) -> bool {
    /// The primaries of sRGB, adapted to D50 (IEC 61966-2-1).
    const PRIMARIES: [(&[u8; 4], [f64; 3]); 3] = [
        (b"rXYZ", [0.4360, 0.2225, 0.0139]),
        (b"gXYZ", [0.3851, 0.7169, 0.0971]),
        (b"bXYZ", [0.1431, 0.0606, 0.7141]),
    ];
    /// The linear value of half the signal.
    const HALF: f64 = 0.2140;
    if icc.get(16..20) != Some(b"RGB ") {
        return false;
    }
    let close = |a: f64, b: f64| (a - b).abs() < 0.02;
    let same_primaries = PRIMARIES.iter().all(|(tag, expected)| {
        let found = tag_of(icc, *tag).and_then(xyz);
        found.is_some_and(|found| found.iter().zip(expected).all(|(a, b)| close(*a, *b)))
    });
    let same_curve = tag_of(icc, b"gTRC").and_then(half).is_some_and(|half| close(half, HALF));
    !(same_primaries && same_curve)
}

/// The data of a tag.
fn tag_of<'i>(icc: &'i [u8], signature: &[u8]) -> Option<&'i [u8]> {
    const MAX_TAGS: usize = 100;
    let count = (number(icc, 128)? as usize).min(MAX_TAGS);
    let entry =
        (0..count).map(|tag| 132 + 12 * tag).find(|&at| icc.get(at..at + 4) == Some(signature))?;
    let start = number(icc, entry + 4)? as usize;
    icc.get(start..start.checked_add(number(icc, entry + 8)? as usize)?)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// A number with 16 bits before and 16 bits after the binary point.
fn fixed(bytes: &[u8], at: usize) -> Option<f64> {
    Some(f64::from(number(bytes, at)?.cast_signed()) / 65536.0)
}

fn xyz(tag: &[u8]) -> Option<[f64; 3]> {
    Some([fixed(tag, 8)?, fixed(tag, 12)?, fixed(tag, 16)?])
}

/// The linear value of half the signal.
fn half(tag: &[u8]) -> Option<f64> {
    let x: f64 = 0.5;
    if tag.starts_with(b"para") {
        let kind = u16::from_be_bytes([*tag.get(8)?, *tag.get(9)?]);
        let value = |i: usize| fixed(tag, 12 + 4 * i);
        let g = value(0)?;
        return Some(match kind {
            0 => x.powf(g),
            // Half the signal is above the linear part.
            1 | 3 => (value(1)? * x + value(2)?).powf(g),
            2 => (value(1)? * x + value(2)?).powf(g) + value(3)?,
            _ => (value(1)? * x + value(2)?).powf(g) + value(5)?,
        });
    }
    let entry = |i: usize| {
        let at = 12 + 2 * i;
        Some(u16::from_be_bytes([*tag.get(at)?, *tag.get(at + 1)?]))
    };
    match number(tag, 8)? as usize {
        0 => Some(x),
        // A gamma with 8 bits after the binary point.
        1 => Some(x.powf(f64::from(entry(0)?) / 256.0)),
        count => Some(f64::from(entry(count / 2)?) / 65535.0),
    }
}

/// Whether a picture file has more than one frame.
pub(crate) fn is_animation(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"GIF8") {
        return has_two_frames(bytes).unwrap_or(false);
    }
    let head = &bytes[..bytes.len().min(1024)];
    let contains = |text: &[u8]| head.windows(text.len()).any(|window| window == text);
    (bytes.starts_with(b"RIFF") && contains(b"ANIM"))
        || (bytes.starts_with(b"\x89PNG") && contains(b"acTL"))
}

/// Whether a GIF file has a second frame; `None` if it is damaged before that.
fn has_two_frames(bytes: &[u8]) -> Option<bool> {
    const EXTENSION: u8 = 0x21;
    const FRAME: u8 = 0x2c;
    let palette = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + palette(*bytes.get(10)?);
    let mut frames = 0;
    loop {
        match *bytes.get(at)? {
            EXTENSION => at += 2,
            FRAME if frames > 0 => return Some(true),
            FRAME => {
                frames += 1;
                // The descriptor, its palette, and the size of the codes.
                at += 11 + palette(*bytes.get(at + 9)?);
            }
            _ => return Some(false),
        }
        // Blocks that begin with their length, the last of which is empty.
        while *bytes.get(at)? != 0 {
            at += 1 + usize::from(bytes[at]);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A profile with these primaries and a gamma.
    fn profile(primaries: [[f64; 3]; 3], gamma: f64) -> Vec<u8> {
        let mut icc = vec![0; 128];
        icc[16..20].copy_from_slice(b"RGB ");
        icc.extend(4u32.to_be_bytes());
        let names = [b"rXYZ", b"gXYZ", b"bXYZ", b"gTRC"];
        for (i, name) in names.iter().enumerate() {
            icc.extend(name.as_slice());
            icc.extend((180 + 20 * i as u32).to_be_bytes());
            icc.extend(20u32.to_be_bytes());
        }
        for primary in primaries {
            icc.extend(b"XYZ \0\0\0\0");
            icc.extend(primary.iter().flat_map(|v| ((v * 65536.0) as i32).to_be_bytes()));
        }
        icc.extend(b"curv\0\0\0\0\0\0\0\x01");
        icc.extend(((gamma * 256.0) as u16).to_be_bytes());
        icc.resize(280, 0);
        icc
    }

    #[test]
    fn profiles_are_compared_by_primaries_and_curve() {
        let srgb = [[0.4360, 0.2225, 0.0139], [0.3851, 0.7169, 0.0971], [0.1431, 0.0606, 0.7141]];
        assert!(!is_other_than_srgb(&profile(srgb, 2.2)));
        assert!(is_other_than_srgb(&profile(srgb, 1.0)));
        let exchanged = [srgb[2], srgb[1], srgb[0]];
        assert!(is_other_than_srgb(&profile(exchanged, 2.2)));
        assert!(!is_other_than_srgb(b"short"));
        assert!(is_other_than_srgb(&profile(srgb, 2.2)[..200]), "its tags are cut off");
    }

    #[test]
    fn animations_are_recognised() {
        let frames = include_bytes!("../../tests/pictures/frames.gif");
        assert!(is_animation(frames));
        assert!(!is_animation(include_bytes!("../../tests/pictures/rgb.png")));
        assert!(!is_animation(include_bytes!("../../tests/pictures/lossless.webp")));
    }
}
