// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots with generations: a number that was given back never means anything else again.

use crate::gauge::Gauge;
use dmabuf_protocol::Status;

/// A bounded table. Its numbers have the slot in the low and the generation in the high 32 bits, and are never 0.
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    used: u32,
    max: u32,
    /// Of each slot's first value.
    first: u32,
    /// Shows `used` to others.
    gauge: Gauge,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    /// An empty table for up to `max` values, whose number is shown in `gauge`.
    pub const fn new(max: u32, gauge: Gauge) -> Self {
        Self::starting_at(1, max, gauge)
    }

    /// The same with numbers that start at a generation, not 0: numbers of another table that starts elsewhere are
    /// stale here.
    pub const fn starting_at(first: u32, max: u32, gauge: Gauge) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            used: 0,
            max,
            first,
            gauge,
        }
    }

    /// Most values that fit.
    pub const fn max(&self) -> u32 {
        self.max
    }

    /// Whether one more value fits.
    ///
    /// # Errors
    /// EMFILE when the table is full.
    pub const fn has_room(&self) -> Result<(), Status> {
        if self.used < self.max {
            Ok(())
        } else {
            Err(Status::EMFILE)
        }
    }

    /// Puts a value in and returns its number.
    ///
    /// # Errors
    /// EMFILE when the table is full.
    pub fn insert(&mut self, value: T) -> Result<u64, Status> {
        self.has_room()?;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).map_err(|_| Status::EMFILE)?;
                self.slots.push(Slot {
                    generation: self.first,
                    value: None,
                });
                index
            }
        };
        let slot = self.slot_mut(index).ok_or(Status::EIO)?;
        slot.value = Some(value);
        let number = (u64::from(slot.generation) << 32) | u64::from(index);
        self.used += 1;
        self.gauge.set(self.used);
        Ok(number)
    }

    /// The value of a number.
    ///
    /// # Errors
    /// ESTALE.
    pub fn get(&self, number: u64) -> Result<&T, Status> {
        let (index, generation) = split(number);
        let slot = usize::try_from(index)
            .ok()
            .and_then(|index| self.slots.get(index));
        let slot = slot
            .filter(|slot| slot.generation == generation)
            .ok_or(Status::ESTALE)?;
        slot.value.as_ref().ok_or(Status::ESTALE)
    }

    /// The value of a number, to change it.
    ///
    /// # Errors
    /// ESTALE.
    pub fn get_mut(&mut self, number: u64) -> Result<&mut T, Status> {
        let (index, generation) = split(number);
        let slot = self
            .slot_mut(index)
            .filter(|slot| slot.generation == generation)
            .ok_or(Status::ESTALE)?;
        slot.value.as_mut().ok_or(Status::ESTALE)
    }

    /// Takes a value out; its number is stale from now on.
    ///
    /// # Errors
    /// ESTALE.
    pub fn remove(&mut self, number: u64) -> Result<T, Status> {
        let (index, generation) = split(number);
        let slot = self
            .slot_mut(index)
            .filter(|slot| slot.generation == generation)
            .ok_or(Status::ESTALE)?;
        let value = slot.value.take().ok_or(Status::ESTALE)?;
        // A slot whose generations are used up is never used again.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(index);
        }
        self.used -= 1;
        self.gauge.set(self.used);
        Ok(value)
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.numbers()
            .into_iter()
            .for_each(|number| drop(self.remove(number)));
    }

    /// The numbers in use.
    pub fn numbers(&self) -> Vec<u64> {
        self.iter().map(|(number, _)| number).collect()
    }

    /// The values with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.slots.iter().zip(0u64..).filter_map(|(slot, index)| {
            slot.value
                .as_ref()
                .map(|value| ((u64::from(slot.generation) << 32) | index, value))
        })
    }

    /// The values with their numbers, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut T)> {
        self.slots
            .iter_mut()
            .zip(0u64..)
            .filter_map(|(slot, index)| {
                let number = (u64::from(slot.generation) << 32) | index;
                slot.value.as_mut().map(|value| (number, value))
            })
    }

    /// What shows their number.
    pub fn gauge(&self) -> Gauge {
        self.gauge.clone()
    }

    /// Values in it.
    pub const fn len(&self) -> u32 {
        self.used
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.slots.get_mut(usize::try_from(index).ok()?)
    }
}

const fn split(number: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "each half has 32 bits")]
    let halves = (number as u32, (number >> 32) as u32);
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_stale_and_are_never_reused() {
        let mut table = Table::new(2, Gauge::default());
        let a = table.insert('a').unwrap();
        let b = table.insert('b').unwrap();
        assert_eq!(table.insert('c'), Err(Status::EMFILE));
        assert_eq!(table.remove(a), Ok('a'));
        assert_eq!(table.remove(a), Err(Status::ESTALE));
        assert_eq!(table.get(a), Err(Status::ESTALE));
        let c = table.insert('c').unwrap();
        assert_ne!(a, c);
        assert_eq!(
            table.get(a),
            Err(Status::ESTALE),
            "the old number must not reach the new value"
        );
        assert_eq!((table.get(b), table.get(c)), (Ok(&'b'), Ok(&'c')));
        assert_eq!(table.get(0), Err(Status::ESTALE));
        assert_eq!(table.get(u64::MAX), Err(Status::ESTALE));
        table.clear();
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_worn_out_slot_is_retired() {
        let mut table = Table::new(1, Gauge::default());
        let a = table.insert(()).unwrap();
        table.slots[0].generation = u32::MAX;
        let worn = (u64::from(u32::MAX) << 32) | (a & 0xffff_ffff);
        table.remove(worn).unwrap();
        let next = table.insert(()).unwrap();
        assert_eq!(next & 0xffff_ffff, 1, "a new slot is taken");
        assert_eq!(table.get(worn), Err(Status::ESTALE));
    }
}
