// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel modules are checked with, for both kernels of the tree: all warnings of the compiler (`W=1`), sparse,
//! the kernel's own check of its coding style, and packaging by DKMS.

use anyhow::Result;

use crate::kernel_source;
use crate::modules;
use crate::process::output_of;
use crate::tally::Tally;
use crate::test_packages;
use crate::tree::Kernel;

/// All directories with modules, below the workspace.
const MODULES: &[&str] = &[
    "kernel/virtio_dmabuf",
    "kernel/dmabuf_derive",
    "tests/guest/attack_module",
    "tests/guest/exit_module",
    "tests/host/error_fence",
    "tests/host/test_exporter",
];
/// Those that users install.
const PACKAGED: &[&str] = &["kernel/virtio_dmabuf", "kernel/dmabuf_derive"];

/// Rules of checkpatch that are off.
const RULES_OFF: &[&str] = &[
    // kzalloc_obj() is in the last releases of Linux 6.12 only, and doesn't tell more than sizeof(*pointer).
    "ALLOC_WITH_SIZEOF",
    // What a lock guards is said by the kernel-doc of its structure.
    "UNCOMMENTED_DEFINITION",
    // Said of a revocation that is dropped, for want of memory or because there are too many.
    "OOM_MESSAGE",
    // Headers for programs: they have no BIT().
    "BIT_MACRO",
];

/// What sparse 0.6.4 has to be told to read headers of Linux 7: it knows neither `__typeof_unqual__` nor that
/// `__builtin_strlen` of a string is constant.
const FOR_SPARSE: &str = "CF=-D__typeof_unqual__=__typeof__ '-D_Static_assert(...)='";
/// What the Makefile of Linux says because of that, and because Debian's headers don't have the file it asks.
const NOT_SPARSE: &[&str] = &[
    "checker-valid.sh: No such file",
    "C=2 specified, but sparse",
];

/// Makes all of them, and prints what they found.
pub fn check_all(tally: &mut Tally) -> Result<()> {
    test_packages::ensure()?;
    for kernel in [Kernel::Bed, Kernel::Older] {
        let release = kernel.release()?;
        for name in MODULES {
            let found = compiler_and_sparse(name, kernel)?;
            print!("{found}");
            let what = format!("W=1 and sparse: {name}, Linux {release}");
            tally.count(what, found.is_empty());
        }
    }
    for name in MODULES {
        let found = style(name)?;
        print!("{found}");
        tally.count(format!("checkpatch: {name}"), found.is_empty());
    }
    for name in PACKAGED {
        let (success, said) = dkms(name)?;
        if !success {
            print!("{said}");
        }
        tally.count(format!("DKMS: {name}, both kernels"), success);
    }
    Ok(())
}

/// What they say of a directory; nothing if all is well.
fn compiler_and_sparse(name: &str, kernel: Kernel) -> Result<String> {
    // 2: also what needs no compiling. What a run has found shall not be lost on the next one.
    let settings = [
        "KBUILD_CHECKSRC=2",
        FOR_SPARSE,
        "W=1",
        "KCFLAGS=-Wall -Werror",
    ];
    let (success, log) = modules::check(name, kernel, &settings)?;
    let noise = |line: &&str| !NOT_SPARSE.iter().any(|known| line.contains(known));
    let mut found: String = log
        .lines()
        .filter(noise)
        .map(|line| format!("{line}\n"))
        .collect();
    if !success && found.is_empty() {
        found.push_str("it does not build\n");
    }
    Ok(found)
}

/// What checkpatch says of a directory; nothing if all is well.
fn style(name: &str) -> Result<String> {
    // It fails when it finds something.
    let script = r#"
        checkpatch=$1 off=$2
        cd "$3"
        find . -name '*.[ch]' -o -name Kbuild -o -name Makefile | sort |
            xargs perl "$checkpatch" --no-tree --strict --terse --show-types --ignore "$off" --file 2>&1 |
            grep -v '^total: 0 errors, 0 warnings, 0 checks' || :
    "#;
    output_of(
        std::process::Command::new("sh")
            .args(["-euc", script, "sh"])
            .arg(kernel_source::checkpatch()?)
            .arg(RULES_OFF.join(","))
            .arg(crate::paths::workspace().join(name)),
    )
}

/// Adds a package to a DKMS of its own and builds it for both kernels.
fn dkms(name: &str) -> Result<(bool, String)> {
    let script = r#"
        source=$1
        shift
        kernel_source_dir=
        . "$source/dkms.conf"
        here=/mnt/modules/dkms/$PACKAGE_NAME
        rm -rf "$here"
        mkdir -p "$here/source" "$here/tree"
        cp -r "$source" "$here/source/$PACKAGE_NAME-$PACKAGE_VERSION"
        dkms() { command dkms "$@" --sourcetree "$here/source" --dkmstree "$here/tree"; }
        dkms add "$PACKAGE_NAME/$PACKAGE_VERSION"
        for release; do
            dkms build "$PACKAGE_NAME/$PACKAGE_VERSION" -k "$release"
            for module in "${BUILT_MODULE_NAME[@]}"; do
                ls "$here/tree/$PACKAGE_NAME/$PACKAGE_VERSION/$release/x86_64/module/$module".ko*
            done
        done
    "#;
    let releases = [Kernel::Bed.release()?, Kernel::Older.release()?];
    let releases: Vec<&str> = releases.iter().map(String::as_str).collect();
    modules::script_on_copy(script, name, &releases)
}
