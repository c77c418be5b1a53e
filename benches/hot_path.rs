<<<<<<< HEAD
//! Filled in below.
=======
//! Not written yet.
>>>>>>> harness

fn main() {}
