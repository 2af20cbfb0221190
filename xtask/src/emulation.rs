// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Deaths that the nested bed's emulation causes, told from those that may be ours.
//!
//! The host VM is emulated by TCG, its SVM included, and that is not perfect. With two CPUs in the host VM, QEMU 11.1.3 lost one
//! VM in ten or so. What its log (`-d int,in_asm`) shows: right after an exit (often, but not only, a nested page fault) the
//! first instruction of the host is fetched with nested paging still on. That walk ends as a second exit: the state of the
//! *host* is saved as that of the guest, and the host goes on. From then on the guest runs with the host's CR3, in circles;
//! or it overwrites the host's kernel stack ("corrupted stack end", or a silent reset); or the host loses its global interrupt
//! flag, and stands still. So the host VM has one CPU where guests are to live, and its guests have one each; two host VMs run
//! side by side instead (`lanes`).
//!
//! Also, an exception of a guest is remembered for longer than it should be, and KVM then refuses to emulate the guest's next
//! access to a device's memory ("KVM internal error. Suberror: 3"). With huge pages one in a hundred programs that ask the daemon
//! met that. Guests avoid it (`tests/guest/exit_module` says how).
//!
//! Kernels that die before their init has run are started again (`boot_watch`). What dies later in one of the ways that are
//! known of the emulation has its scenario run again, which is told and counted. Whoever makes a guest die on purpose, or by
//! a bug, does so each time.

use std::fs;
use std::path::Path;

use crate::plan::BedKind;
use crate::report::Check;
use crate::scenario::Findings;

/// How often a scenario is run at most.
pub const RUNS: usize = 3;

/// What a kernel's last words have when it is about something of ours, or of what we use.
const OURS: &[&str] = &["dmabuf", "dma_buf", "udmabuf", "vgem", "vivid"];

/// Why a run says nothing about this project, if it is so.
pub fn fault(bed: BedKind, findings: &Findings) -> Option<&'static str> {
    let host = fs::read(findings.logs.join("host-console.log")).unwrap_or_default();
    (bed == BedKind::Nested)
        .then(|| {
            judge(
                &findings.checks,
                &String::from_utf8_lossy(&host),
                &qemu_logs(&findings.logs),
            )
        })
        .flatten()
}

/// What the QEMUs of all guests of a run have said, those that were started again before their init apart.
fn qemu_logs(logs: &Path) -> String {
    let entries = fs::read_dir(logs).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with("-qemu.log"))
        .map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned())
        .collect()
}

fn judge(checks: &[Check], host_console: &str, qemu_logs: &str) -> Option<&'static str> {
    let clean = |check: &Check| check.name != "guest_kernel_clean" || check.pass;
    if checks.iter().all(|check| check.pass) || !checks.iter().all(clean) {
        return None;
    }
    // Such a guest is ended at once (`guest_vm`), whichever it is, and what waits for it fails.
    if qemu_logs.contains("KVM internal error") {
        return Some("KVM could not go on with a guest (internal error)");
    }
    let works = checks.iter().find(|check| check.name == "bed_works")?;
    if works.pass {
        return None;
    }
    let failure = works.value.to_string();
    // -no-reboot: QEMU ends so when the guest's CPU has shut down, which is a triple fault.
    if failure.contains("QEMU ended before the guest's command had (exit status: 0)") {
        return Some("the guest's CPU has shut down, and its kernel said nothing");
    }
    let panicked = host_console.contains("Kernel panic") || host_console.contains("Oops");
    let about_ours = OURS.iter().any(|word| {
        let last = host_console.split("Call Trace").nth(1).unwrap_or_default();
        last.contains(word)
    });
    if failure.contains("the bed ended unexpectedly") && !(panicked && about_ours) {
        return Some("the host VM's kernel died");
    }
    None
}

/// The checks of a run that was repeated before, with that said.
pub fn repeated(findings: &mut Findings, faults: &[&str]) {
    if !faults.is_empty() {
        let check = Check::new("run_again", true, faults.join("; "));
        findings.checks.push(check);
    }
}

/// Where a run's logs are, for whoever wants to look.
pub fn told(fault: &str, logs: &Path) -> String {
    format!(
        "{fault}: the scenario is run again (logs: {})",
        logs.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bed(failure: &str) -> Vec<Check> {
        vec![
            Check::new("a", false, false),
            Check::new("bed_works", false, failure),
            Check::new("guest_kernel_clean", true, true),
        ]
    }

    #[test]
    fn deaths_of_the_emulation_are_told_from_ours() {
        let shut_down =
            "QEMU ended before the guest's command had (exit status: 0).\n--- QEMU said";
        assert!(judge(&bed(shut_down), "", "").is_some());
        let killed = "QEMU ended before the guest's command had (signal: 11 (SIGSEGV))";
        assert_eq!(judge(&bed(killed), "", ""), None, "QEMU crashed");
        let aborted = "QEMU ended before the guest's command had (exit status: 1)";
        assert_eq!(judge(&bed(aborted), "", ""), None);
        assert!(judge(&bed(aborted), "", "KVM internal error. Suberror: 3").is_some());
        let further = [
            Check::new("second_vm", false, false),
            Check::new("guest_kernel_clean", true, true),
        ];
        assert!(judge(&further, "", "KVM internal error. Suberror: 3").is_some());
        let expected = "error: kvm run failed Bad address";
        assert_eq!(
            judge(&further, "", expected),
            None,
            "what we cause ourselves"
        );
        let gone = "the bed ended unexpectedly.";
        let panic = "Kernel panic - not syncing: corrupted stack end\nCall Trace:\n kvm_arch_vcpu_ioctl_run";
        assert!(judge(&bed(gone), panic, "").is_some());
        let ours = "BUG: NULL pointer\nOops: 0002\nCall Trace:\n derive_mmap [dmabuf_derive]";
        assert_eq!(judge(&bed(gone), ours, ""), None, "our module's trace");
        assert_eq!(
            judge(&bed("the bed did not answer in time"), panic, ""),
            None
        );
    }

    #[test]
    fn a_kernel_that_complains_is_not_excused() {
        let mut checks = bed("QEMU ended before the guest's command had (exit status: 0)");
        checks.pop();
        checks.push(Check::new(
            "guest_kernel_clean",
            false,
            "BUG: in virtio_dmabuf",
        ));
        assert_eq!(judge(&checks, "", "KVM internal error"), None);
        let fine = [Check::new("a", false, false)];
        assert_eq!(
            judge(&fine, "", ""),
            None,
            "a check that failed, nothing died"
        );
        let survived = [Check::new("a", true, true)];
        assert_eq!(judge(&survived, "", "KVM internal error"), None);
    }
}
