//! Places: what each gate goes on in, and how another object's programs are put there.
//!
//! A gate is a program that stays attached until the next boot (ebpf/programs/src/gates.rs). Its place is a
//! map of one program, which the kernel replaces in one step: each event goes to the program before or to
//! the one after. Not here: who may put programs there (see `load` and the engine).

use super::{
    Error, Result,
    load::{self, Attached, Plain, kernel},
    object::{self, Hook},
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapInfo, ProgramArray},
    programs::{ProgramFd, ProgramInfo},
};
use cgpath_ebpf_common::{Meta, class};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Programs that may sleep. 6.1 and 6.12 refuse them a map of programs (`check_map_prog_compatibility` in
/// kernel/bpf/verifier.c): they have no gate, and stay those of the load until the next boot.
pub(super) const WITHOUT_GATE: [&str; 3] = ["executed", "script", "mapped"];

/// Whether what is attached under this name is a gate.
fn is_gate(name: &str) -> bool {
    !WITHOUT_GATE.contains(&name)
}

/// All gates with their hooks, in the order in which they are attached.
pub(super) fn gates() -> impl Iterator<Item = (&'static str, Hook)> {
    object::PROGRAMS.into_iter().filter(|(name, _)| is_gate(name))
}

/// The program that a gate goes on in.
pub(super) fn program_of(gate: &str) -> String {
    format!("do_{gate}")
}

/// The map that is a gate's place.
pub(super) fn map_of(gate: &str) -> String {
    gate.to_ascii_uppercase()
}

/// The program in a gate's place.
pub(super) struct Placed {
    /// Held, so that no other program is given its id.
    _fd: ProgramFd,
    pub(super) id: u32,
    pub(super) verified_instructions: u32,
    place: Place,
    pin: PathBuf,
}

/// A place, read as ids: so the kernel shows what is there.
type Place = Array<MapData, u32>;

fn place_at(pin: &Path) -> Result<Place> {
    Array::try_from(load::map_at(pin, Map::Array)?).map_err(load::not_ours(pin))
}

impl Placed {
    /// What the pins of this gate show.
    ///
    /// # Errors
    /// [`Error::Pin`] where the place holds another program than the one that is pinned for it.
    pub(super) fn open(dir: &Path, gate: &str) -> Result<Placed> {
        let at = load::pin_of(dir, "map", &map_of(gate));
        let place = place_at(&at)?;
        let pin = load::pin_of(dir, "prog", &program_of(gate));
        let info = ProgramInfo::from_pin(&pin).map_err(load::not_ours(&pin))?;
        let placed = Placed {
            _fd: info.fd().map_err(kernel("open", program_of(gate)))?,
            id: info.id(),
            verified_instructions: load::verified_instructions(&info)?,
            place,
            pin: at.clone(),
        };
        match placed.gone() {
            None => Ok(placed),
            Some(why) => Err(Error::Pin { path: at, why }),
        }
    }

    /// Why the gate does not go on in this program any more, or will not once this process ends (the kernel
    /// empties a place that has neither pin nor descriptor); `None` if it does.
    pub(super) fn gone(&self) -> Option<String> {
        let differs = |place: &Place| match place.get(&0, 0) {
            Ok(id) if id == self.id => None,
            Ok(id) => Some(format!("program {id} stands in the place of {}", self.id)),
            Err(error) => Some(format!("its place is empty: {}", load::with_causes(&error))),
        };
        let pinned = match place_at(&self.pin) {
            Ok(place) => differs(&place),
            Err(error) => Some(load::with_causes(&error)),
        };
        differs(&self.place).or(pinned)
    }
}

/// Puts this object's program into the place of a gate, and pins it beside: from here on the gate goes on in
/// it.
pub(super) fn fill(ebpf: &mut Ebpf, dir: &Path, gate: &str) -> Result<()> {
    let at = load::pin_of(dir, "map", &map_of(gate));
    let map = load::map_at(&at, Map::ProgramArray)?;
    let mut place = ProgramArray::try_from(map).map_err(load::not_ours(&at))?;
    let name = program_of(gate);
    let pin = load::pin_of(dir, "prog", &name);
    let program = load::program(ebpf, &name)?;
    let fd = program.fd().map_err(kernel("open", name.as_str()))?;
    place.set(0, fd, 0).map_err(kernel("place", name.as_str()))?;
    // The pin is for those who ask what is there: the place itself keeps its program.
    match fs::remove_file(&pin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(load::io_error("remove", &pin)(error));
        }
        _ => {}
    }
    program.pin(&pin).map_err(kernel("pin", name))
}

/// Makes sure that what is pinned are the maps that the programs use: those of the load, which the guard
/// knows by their ids.
///
/// # Errors
/// [`Error::Pin`] for one that is absent or another one: the new programs would use it, and be alone there.
pub(super) fn check(dir: &Path, guarded: &HashMap<MapData, u64, u32>) -> Result<()> {
    for name in object::map_names() {
        let path = load::pin_of(dir, "map", &name);
        let map = MapInfo::from_pin(&path).map_err(load::not_ours(&path))?;
        if guarded.get(&(class::MAP | u64::from(map.id())), 0).is_err() {
            let why = format!("map {} is none that the programs use", map.id());
            return Err(Error::Pin { path, why });
        }
    }
    Ok(())
}

/// What a collector does about the places that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// They stay as they are.
    Keep,
    /// Its own programs are put there. If the kernel refuses them, those that are there go on.
    Replace,
    /// Its own programs are put there: somebody began to, so that what is there is of two objects.
    Finish,
}

/// The plan of a collector with this object; `None` if the programs that run are not its business.
///
/// `handed_over` is the object that the journal's last checkpoint states, `replaces` whether another program
/// sealed it and handed over to this one.
pub(super) fn plan(
    meta: &Meta,
    object: [u8; 32],
    handed_over: Option<[u8; 32]>,
    replaces: bool,
) -> Option<Plan> {
    if meta.placing != [0; 32] {
        let is_known = meta.placing == object || Some(meta.placed) == handed_over;
        return is_known.then_some(Plan::Finish);
    }
    match meta.placed == object {
        true => Some(Plan::Keep),
        false if Some(meta.placed) != handed_over => None,
        false if replaces => Some(Plan::Replace),
        false => Some(Plan::Keep),
    }
}

/// Puts all of this object's programs into the places, one after the other: each gate goes on without a gap.
/// `guard` is shown each program before it is there.
pub(super) fn replace(
    ebpf: &mut Ebpf,
    dir: &Path,
    note: &mut Array<MapData, Plain<Meta>>,
    meta: &mut Meta,
    object: [u8; 32],
    mut guard: impl FnMut(u32) -> Result<()>,
) -> Result<()> {
    let write = || kernel("write", "meta");
    for (gate, _) in gates() {
        let name = program_of(gate);
        let info = load::program(ebpf, &name)?.info();
        guard(info.map_err(kernel("ask about", name))?.id())?;
    }
    meta.placing = object;
    note.set(0, Plain(*meta), 0).map_err(write())?;
    for (gate, _) in gates() {
        fill(ebpf, dir, gate)?;
    }
    (meta.placed, meta.placing) = (object, [0; 32]);
    note.set(0, Plain(*meta), 0).map_err(write())
}

/// Takes note of the programs in the places, for those that have a gate.
pub(super) fn opened(mut attached: Vec<Attached>, dir: &Path) -> Result<Vec<Attached>> {
    for gate in attached.iter_mut().filter(|program| is_gate(program.name)) {
        gate.placed = Some(Placed::open(dir, gate.name)?);
    }
    Ok(attached)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];
    const FOREIGN: [u8; 32] = [3; 32];

    fn runs(placed: [u8; 32], placing: [u8; 32]) -> Meta {
        Meta {
            object: OLD,
            placed,
            placing,
            ..Meta::default()
        }
    }

    #[test]
    fn programs_are_replaced_by_those_of_a_collector_that_was_handed_over_to_and_by_no_others() {
        let idle = [0; 32];
        for (placed, placing, object, handed_over, replaces, expected) in [
            // A restart, before a handover and after one.
            (OLD, idle, OLD, Some(OLD), false, Some(Plan::Keep)),
            (NEW, idle, NEW, Some(NEW), false, Some(Plan::Keep)),
            // The first start after one, and the first that got as far as to replace them and no further.
            (OLD, idle, NEW, Some(OLD), true, Some(Plan::Replace)),
            (NEW, idle, NEW, Some(OLD), true, Some(Plan::Keep)),
            // The same program with another object, and a new one that had to leave them: they stay.
            (OLD, idle, NEW, Some(OLD), false, Some(Plan::Keep)),
            // Ended while it replaced them.
            (OLD, NEW, NEW, Some(OLD), true, Some(Plan::Finish)),
            (OLD, NEW, OLD, Some(OLD), true, Some(Plan::Finish)),
            // No checkpoint states what runs.
            (OLD, idle, NEW, None, false, None),
            (OLD, idle, NEW, Some(FOREIGN), true, None),
            (FOREIGN, idle, NEW, Some(OLD), true, None),
            (FOREIGN, OLD, NEW, Some(OLD), true, None),
        ] {
            let found = plan(&runs(placed, placing), object, handed_over, replaces);
            assert_eq!(
                found, expected,
                "{placed:?} {placing:?} {object:?} {handed_over:?} {replaces}"
            );
        }
    }

    #[test]
    fn each_gate_has_a_place_and_a_program_of_its_own_and_what_may_sleep_has_none() {
        let gates: Vec<&str> = gates().map(|(name, _)| name).collect();
        assert_eq!(gates.len() + WITHOUT_GATE.len(), object::PROGRAMS.len());
        let mut names: Vec<String> = gates
            .iter()
            .flat_map(|gate| [map_of(gate), program_of(gate)])
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 2 * gates.len());
    }
}
