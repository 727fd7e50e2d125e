//! An image's dependencies on the layers below, as recorded in its superblock.

/// The dependencies of an image on the layers below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// It has directories without entries.
    pub directories: bool,
    /// It has hard links to files of lower layers.
    pub links: bool,
}

impl Needs {
    /// Changes whenever the writer's output changes: images of other versions are not used.
    const VERSION: &str = "microkube-2";

    /// Whether the image depends on lower layers.
    pub fn any(self) -> bool {
        self.directories || self.links
    }

    /// The superblock's field.
    pub(super) fn encode(self) -> [u8; 16] {
        let mut name = [0; 16];
        let flags = [(self.directories, "d"), (self.links, "l")];
        let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| *flag).collect();
        let text = format!("{}{flags}", Self::VERSION);
        for (place, byte) in name.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        name
    }

    /// Reads the superblock's field; `None` for an image of another version.
    pub(super) fn decode(name: &[u8; 16]) -> Option<Self> {
        let text = name.split(|byte| *byte == 0).next()?;
        let flags = text.strip_prefix(Self::VERSION.as_bytes())?;
        Some(Self {
            directories: flags.contains(&b'd'),
            links: flags.contains(&b'l'),
        })
    }
}
