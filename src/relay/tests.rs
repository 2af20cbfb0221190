// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A relay between a guest and a broker that are both the test.
