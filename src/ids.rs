//! Names for numbers, so that a page is never taken for a slot. A leaf: every module may import it.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// As an index. The width of the id is the limit: a `u32` always fits a `usize` here.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A row of the vocabulary.
    TokenId(u32)
);
id!(
    /// A page of the KV pool; page 0 is the null page, never cached, used for padding.
    PageId(u32)
);
id!(
    /// A persistent row on the device that belongs to one running sequence.
    SlotId(u32)
);
id!(
    /// A place on the device for a copy of a slot's state.
    SnapshotId(u32)
);
id!(
    /// A page-table group: layers that share page ids. One group (0) unless windows are mixed.
    GroupId(u8)
);
id!(
    /// A request, unique within an engine, in order of arrival.
    RequestId(u64)
);
id!(
    /// A LoRA adapter of the model, counted from 1 in the order of multi_lora.json; 0 is "none".
    AdapterId(u16)
);
id!(
    /// A place for one adapter on the device.
    AdapterSlotId(u16)
);
