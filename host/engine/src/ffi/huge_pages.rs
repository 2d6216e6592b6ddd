//! Huge pages for the buffers of llama.cpp.
//!
//! Every token reads all weights and all of its keys and values. In pages of 4 KiB
//! these are tens of thousands, more than a processor remembers the places of, and
//! looking them up takes longer than some of the arithmetic, most of all in a virtual
//! machine. llama.cpp allocates with the C library, which asks for huge pages only if a
//! variable says so before the process begins. So what was mapped while a buffer was
//! made is found in the process's own list of mappings, and the kernel is asked for
//! that much. It is advice: where the kernel does not follow it, nothing is different.
//!
//! Which buffers are worth it is decided by [`crate::load`].

use std::ops::Range;

/// Mappings smaller than this are left alone: they are not the ones that are read for
/// every token, and rounding many of them up would take memory. Stacks of threads, which
/// C libraries make 8 MiB large, are among them.
const SMALLEST: usize = 16 << 20;

/// Whether the kernel gives huge pages to those who ask.
pub(crate) fn are_available() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    setting.is_ok_and(|setting| !setting.contains("[never]"))
}

/// Runs `make`, and asks for huge pages for the large mappings that it leaves behind.
/// What other threads map meanwhile is not told apart.
pub(crate) fn within<T>(make: impl FnOnce() -> T) -> T {
    let before = writable();
    let made = make();
    let new = without(&writable(), &before);
    for range in &new {
        advise(range, Advice::Hugepage);
    }
    // What was written already is copied, at about a second for a gigabyte: nobody has to
    // wait for that. Without a thread the kernel does it in its own good time.
    let copying = std::thread::Builder::new().name("huge-pages".to_owned());
    let _ = copying.spawn(move || {
        for range in new {
            for start in range.clone().step_by(PIECE) {
                advise(&(start..range.end.min(start + PIECE)), Advice::Collapse);
            }
        }
    });
    made
}

/// How much is copied at once: others of the process may have to wait for it.
const PIECE: usize = 16 << 20;

/// What the kernel is told; the numbers of `linux/mman.h`.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "there is nobody to tell"))]
enum Advice {
    /// Huge pages for what is written first from now on.
    Hugepage = 14,
    /// And for what was written before; known since Linux 6.1.
    Collapse = 25,
}

/// The anonymous mappings of this process that can be written, in order.
fn writable() -> Vec<Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(anonymous).collect()
}

/// The range of a line of `/proc/self/maps`, if it is private memory without a file or
/// a name such as `[stack]`.
fn anonymous(line: &str) -> Option<Range<usize>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let inode = fields.nth(2)?;
    if permissions != "rw-p" || inode != "0" || fields.next().is_some() {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// What of `now` is not in `before`, as far as it is large. Both are in order; the
/// kernel joins mappings that touch, so that a new one may be a part of a line.
fn without(now: &[Range<usize>], before: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut new = Vec::new();
    for range in now {
        let mut start = range.start;
        for old in before.iter().filter(|old| old.end > range.start && old.start < range.end) {
            new.push(start..old.start.max(start));
            start = start.max(old.end);
        }
        new.push(start.min(range.end)..range.end);
    }
    new.retain(|range| range.len() >= SMALLEST);
    new
}

#[cfg(target_os = "linux")]
fn advise(range: &Range<usize>, advice: Advice) {
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    let address = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: both kinds of advice change how the kernel backs memory and nothing about
    // its contents, protection or lifetime, so it does not matter whose memory it is, nor
    // whether it has been unmapped meanwhile: then the kernel returns an error, which is
    // ignored like any other.
    unsafe { madvise(address, range.len(), advice as c_int) };
}

#[cfg(not(target_os = "linux"))]
fn advise(_range: &Range<usize>, _advice: Advice) {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may panic")]
    #![allow(clippy::single_range_in_vec_init, reason = "one range is what is meant")]

    use super::*;

    const MIB: usize = 1 << 20;
    /// A huge page.
    const PAGE: usize = 2 * MIB;

    #[test]
    fn only_private_memory_without_a_name_counts() {
        assert_eq!(anonymous("7f00-7fff rw-p 00000000 00:00 0 "), Some(0x7f00..0x7fff));
        for line in [
            "7f00-7fff r--p 00000000 00:00 0 ",
            "7f00-7fff rw-s 00000000 00:00 0 ",
            "7f00-7fff rw-p 00000000 00:00 0 [stack]",
            "7f00-7fff rw-p 00000000 fe:00 1234 /usr/lib/libm.so.6",
            "7f00-7fff rw-p 00000000 00:01 77 /memfd:wasm-memory-image (deleted)",
            "7f00 rw-p 00000000 00:00 0",
            "",
        ] {
            assert_eq!(anonymous(line), None, "{line}");
        }
    }

    #[test]
    fn what_is_new_is_found_whatever_it_was_joined_with() {
        let found = |now: &[Range<usize>], before: &[Range<usize>]| {
            let huge = |ranges: &[Range<usize>]| -> Vec<Range<usize>> {
                ranges.iter().map(|range| range.start * PAGE..range.end * PAGE).collect()
            };
            without(&huge(now), &huge(before))
                .iter()
                .map(|range| range.start / PAGE..range.end / PAGE)
                .collect::<Vec<_>>()
        };
        assert_eq!(found(&[10..30], &[]), [10..30]);
        assert!(found(&[10..30], &[10..30]).is_empty());
        // Grown at its end, at its beginning, and around what was there.
        assert_eq!(found(&[10..30], &[10..20]), [20..30]);
        assert_eq!(found(&[10..30], &[20..30]), [10..20]);
        assert_eq!(found(&[10..40], &[20..25]), [10..20, 25..40]);
        assert_eq!(found(&[10..40], &[5..12, 20..25, 35..50]), [12..20, 25..35]);
        // Shrunk, and too small.
        assert!(found(&[10..20], &[0..40]).is_empty());
        assert_eq!(found(&[10..17, 50..60], &[]), [50..60]);
    }

    /// Whether the kernel was told of the memory at this address.
    fn is_advised(address: usize) -> bool {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut here = false;
        for line in smaps.lines() {
            if let Some(range) = anonymous(line) {
                here = range.contains(&address);
            } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| here) {
                return flags.split_ascii_whitespace().any(|flag| flag == "hg");
            }
        }
        panic!("no mapping at {address:x}");
    }

    #[test]
    fn the_kernel_is_told() {
        if !are_available() {
            return;
        }
        let plain = vec![1u8; 32 * MIB];
        let huge = within(|| vec![1u8; 32 * MIB]);
        let middle = |memory: &[u8]| memory.as_ptr().addr() + 16 * MIB;
        assert!(is_advised(middle(&huge)));
        assert!(!is_advised(middle(&plain)));
        assert!(huge.iter().all(|byte| *byte == 1));
    }
}
