// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Counting: how many tests passed, failed, were skipped, and which ones.

/// The sum so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    passed: u64,
    passed_in_vain: u64,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Counts one check.
    pub fn count(&mut self, name: impl Into<String>, pass: bool) {
        if pass {
            self.passed += 1;
        } else {
            self.failed.push(name.into());
        }
    }

    /// Counts what was left out, and why.
    pub fn skip(&mut self, name: &str, reason: &str) {
        self.skipped.push(format!("{name}: {reason}"));
    }

    /// Takes a line of `cargo test`: passed ones are added up; failed and ignored tests are remembered by name.
    pub fn take_test_line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += result
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(" passed")?.parse::<u64>().ok())
                .unwrap_or(0);
        } else if let Some((name, reason)) = line
            .strip_prefix("SKIP ")
            .and_then(|skip| skip.split_once(": "))
        {
            // It says so itself, and then counts as passed in the result line.
            self.skip(name, reason);
            self.passed_in_vain += 1;
        } else if let Some((name, verdict)) = line
            .strip_prefix("test ")
            .and_then(|test| test.rsplit_once(" ... "))
        {
            if verdict == "FAILED" {
                self.failed.push(name.to_owned());
            } else if let Some(reason) = verdict.strip_prefix("ignored") {
                let reason = reason.trim_start_matches(", ");
                self.skip(
                    name,
                    if reason.is_empty() {
                        "no reason given"
                    } else {
                        reason
                    },
                );
            }
        }
    }

    /// The number of failures.
    pub fn failures(&self) -> u64 {
        u64::try_from(self.failed.len()).unwrap_or(u64::MAX)
    }

    /// What failed and what was skipped, one line each.
    pub fn details(&self) -> Vec<String> {
        let failed = self.failed.iter().map(|name| format!("failed: {name}"));
        let skipped = self.skipped.iter().map(|name| format!("skipped: {name}"));
        skipped.chain(failed).collect()
    }

    /// The last line of all.
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed.saturating_sub(self.passed_in_vain),
            self.failures(),
            self.skipped.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn adds_up_what_cargo_test_prints() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored",
            "test a::e - should panic ... ignored, needs /dev/udmabuf",
            "test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "SKIP a::f: no /dev/udmabuf",
            "test a::f ... ok",
            "test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ] {
            tally.take_test_line(line);
        }
        tally.count("clippy", true);
        tally.count("doc", false);
        assert_eq!(tally.summary(), "7 passed, 2 failed, 3 skipped");
        assert_eq!(
            tally.details(),
            [
                "skipped: a::d: no reason given",
                "skipped: a::e - should panic: needs /dev/udmabuf",
                "skipped: a::f: no /dev/udmabuf",
                "failed: a::c",
                "failed: doc"
            ]
        );
    }
}
