<<<<<<< HEAD
=======
//! Not written yet.

>>>>>>> harness
fn main() {}
