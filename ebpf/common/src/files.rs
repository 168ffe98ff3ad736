//! What file a record is about, and which files of layers are watched.
//!
//! Promise: as the crate's, the same layout for both sides, without padding. Not here: where the kernel keeps
//! it (`Config`).

/// What file it is, beyond its device and inode number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawIdentity {
    /// `i_generation` of the inode: another one where its number is used again. Inodes of overlayfs have
    /// none; of them this tells overlays apart: `i_generation << 32 ^ i_ino` of the overlay's upper
    /// directory, 0 without one.
    pub generation: u64,
    /// `s_magic` of the file system that holds the content; overlayfs' own where that is not known. 0 without
    /// a file.
    pub magic: u64,
    /// Of a file of an overlay, `s_dev` of the layer's file that holds its content; else, and where that is
    /// not known, 0.
    pub layer_dev: u64,
    /// `i_ino` of that file; 0 where there is none.
    pub layer_ino: u64,
    /// `i_generation` of that file.
    pub layer_generation: u32,
    /// 1 if that file was open for writing beside the overlay.
    pub layer_written: u32,
}

/// A file of a layer: key of the map `USED`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerKey {
    /// As [`RawIdentity::layer_dev`].
    pub dev: u64,
    /// As [`RawIdentity::layer_ino`].
    pub ino: u64,
}

/// Value of the map `USED`, which has the files of layers that were executed or mapped through an overlay.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// As [`RawIdentity::layer_generation`].
    pub generation: u64,
    /// `s_dev` of the overlay, or [`MANY_OVERLAYS`].
    pub overlay: u64,
    /// 1 if it was reported since that it was opened for writing.
    pub told: u64,
}

/// [`Used::overlay`] of a file that was executed or mapped through more than one. No overlay has this number.
pub const MANY_OVERLAYS: u64 = u64::MAX;

/// Layers' files that are watched at most; the oldest give way.
pub const MAX_USED: u32 = 32_768;

/// Values of [`super::Config::overlay`]: how overlayfs keeps the files of its layers.
pub mod overlay {
    /// It is not known.
    pub const UNKNOWN: u32 = 0;
    /// `ovl_inode.lowerpath` and `lowerdata`: from 5.19 to 6.4.
    pub const PATH: u32 = 1;
    /// `ovl_inode.oe`: since 6.5.
    pub const STACK: u32 = 2;
}
