// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the program is linked: by our own script, without C library or start code, to fixed addresses.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=payload.ld");
    for argument in [
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        &format!("-Wl,-T,{here}/payload.ld"),
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
