//! The auditor: sees the feed, the disk, and what workers and clients say happened, and checks that it adds up. It takes
//! no part: nothing of what it sees changes what happens.

mod end;
mod feed;
pub mod oracle;

pub use end::{Core, at_the_end, same_after_restart, views};
pub use feed::{Feed, follow};
