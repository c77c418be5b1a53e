//! ROOM 1.
