use super::*;
use cgpath_evidence::PartitionKey;
use proptest::prelude::*;

const POD: &str = "podf52130f4-c5be-423e-8070-daaca055a5ad";

fn text(c: &mut Cgroups, id: u64) -> Option<String> {
    c.path(id).map(|p| String::from_utf8(p.to_vec()).unwrap())
}

/// A root (1), a pod (3) and its container (4).
fn with_a_pod() -> Cgroups {
    let mut c = Cgroups::default();
    c.seed(1, 0, b"");
    c.seed(2, 1, b"kubepods");
    c.made(3, 2, POD.as_bytes());
    c.made(4, 3, &[b'c'; 64]);
    c
}

#[test]
fn a_path_is_the_chain_of_names_and_the_root_is_a_slash() {
    let mut c = Cgroups::default();
    c.seed(1, 0, b"");
    c.seed(2, 1, b"kubepods");
    c.made(3, 2, b"pod1");
    assert_eq!(text(&mut c, 1).as_deref(), Some("/"));
    assert_eq!(text(&mut c, 3).as_deref(), Some("/kubepods/pod1"));
}

#[test]
fn a_rename_applies_to_everything_below_and_an_unknown_parent_gives_no_path() {
    let mut c = Cgroups::default();
    c.seed(1, 0, b"");
    c.made(2, 1, b"a");
    c.made(3, 2, b"b");
    assert_eq!(text(&mut c, 3).as_deref(), Some("/a/b"));
    c.renamed(2, 1, b"z");
    assert_eq!(text(&mut c, 3).as_deref(), Some("/z/b"));
    c.made(9, 8, b"x");
    assert_eq!(text(&mut c, 9), None);
}

#[test]
fn a_circle_of_parents_ends_and_gives_no_path() {
    let mut c = Cgroups::default();
    c.made(5, 6, b"a");
    c.made(6, 5, b"b");
    assert_eq!(c.path(5), None);
    c.removed(5);
    assert_eq!(c.path(6), None);
    c.seed(7, 8, b"c");
    c.seed(8, 7, b"d");
    assert_eq!(c.predating_there().len(), 2);
}

#[test]
fn only_what_nobody_saw_being_made_predates_though_it_went_meanwhile() {
    let mut c = Cgroups::default();
    c.seed(1, 0, b"");
    c.seed(2, 1, b"old");
    c.made(3, 1, b"new");
    c.seed(3, 1, b"new");
    c.seed(4, 1, b"late");
    c.made(4, 1, b"late");
    c.seed(5, 2, b"gone");
    c.removed(5);
    c.made(6, 1, b"made and gone");
    c.removed(6);
    // The scan saw it before it went.
    c.seed(6, 1, b"made and gone");
    let found = c.predating();
    let paths: Vec<_> = found.iter().map(|p| std::str::from_utf8(p).unwrap()).collect();
    assert_eq!(paths, ["/", "/old", "/old/gone"]);
    let mut there = c.predating_there();
    there.sort();
    assert_eq!(there, [b"".to_vec(), b"/old".to_vec()]);
}

#[test]
fn a_directory_at_any_depth_is_its_pods_and_its_path_is_cut_and_marked() {
    let mut c = with_a_pod();
    let whose = attribute(&c.path(4).unwrap());
    assert!(matches!(whose.key, PartitionKey::Pod(_)));
    let name = [b'n'; 250];
    for i in 0..10_000 {
        c.made(5 + i, 4 + i, &name);
        let path = c.path(5 + i).unwrap();
        assert_eq!(attribute(&path), whose);
        assert!(path.len() <= MAX_PATH + CUT.len());
        assert_eq!(path.ends_with(CUT), i >= 3, "level {i}: {}", path.len());
    }
}

#[test]
fn asking_for_the_deepest_directory_first_is_as_good_and_the_next_ones_cost_nothing() {
    let mut c = with_a_pod();
    for i in 0..100_000 {
        c.made(5 + i, 4 + i, b"d");
    }
    let deepest = c.path(4 + 100_000).unwrap();
    assert_eq!(attribute(&deepest).key, attribute(&c.path(4).unwrap()).key);
    // All that are cut share one path.
    assert!(Arc::ptr_eq(&deepest, &c.path(4 + 50_000).unwrap()));
}

#[test]
fn a_name_can_not_imitate_the_mark() {
    let mut c = with_a_pod();
    c.made(5, 4, b"...");
    assert!(!c.path(5).unwrap().ends_with(CUT));
}

#[test]
fn a_removed_directory_keeps_its_path_and_one_below_it_never_was() {
    let mut c = with_a_pod();
    c.made(5, 4, b"x");
    let before = c.path(5).unwrap();
    c.removed(5);
    c.removed(4);
    assert_eq!(c.path(5), Some(before));
    c.made(9, 4, b"y");
    assert_eq!(c.path(9), None);
}

#[test]
fn churn_gives_its_memory_back_and_takes_no_path_from_another_pod() {
    let mut c = with_a_pod();
    let other = "/kubepods/pod11111111-2222-4333-8444-555555555555";
    c.made(5, 2, &other.as_bytes()["/kubepods/".len()..]);
    c.made(6, 5, b"moved away from");
    c.removed(6);
    let churned = 200_000u64;
    for i in 0..churned {
        c.made(100 + i, 4, b"0123456789");
        c.removed(100 + i);
    }
    assert_eq!(c.nodes.len(), 5);
    assert!(c.gone.paths.len() as u64 <= churned + 1);
    assert_eq!(c.gone.whole.len(), KEPT_WHOLE);
    // Read late: whose it was is known still, and the one path is shared.
    assert_eq!(text(&mut c, 6).unwrap(), format!("{other}//..."));
    let first = c.path(100).unwrap();
    assert_eq!(attribute(&first), attribute(&c.path(4).unwrap()));
    assert!(Arc::ptr_eq(&first, &c.path(101).unwrap()));
    assert_eq!(
        &*c.path(99 + churned).unwrap(),
        &[&*c.path(4).unwrap(), b"/0123456789"].concat()[..]
    );
}

#[test]
fn what_is_kept_of_removed_directories_has_a_bound() {
    let mut c = with_a_pod();
    let most = (KEPT_WHOLE + KEPT_SHORT) as u64;
    for i in 0..most + 1000 {
        c.made(100 + i, 4, b"d");
        c.removed(100 + i);
    }
    assert_eq!(c.gone.paths.len() as u64, most);
    assert_eq!((c.path(100), c.nodes.len()), (None, 4));
}

proptest! {
    /// Against paths that are joined whole.
    #[test]
    fn whose_a_directory_is_never_depends_on_depth_names_or_removals(
        // Which one is its parent, and its name: many bytes or few, or one that means something.
        made in prop::collection::vec((any::<prop::sample::Index>(), 0usize..9, 1usize..256), 1..60),
        removed in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut c = Cgroups::default();
        c.seed(1, 0, b"");
        let mut whole: Vec<(u64, Vec<u8>, bool)> = vec![(1, Vec::new(), false)];
        for (id, (parent, kind, length)) in (2u64..).zip(made) {
            let name: Vec<u8> = match kind {
                0 => b"kubepods".to_vec(),
                1 => b"burstable".to_vec(),
                2 | 3 => POD.into(),
                4 => vec![b'a'; 64],
                5 => b"kubelet".to_vec(),
                _ => vec![b'n'; length],
            };
            let at = parent.index(whole.len());
            whole[at].2 = true;
            let (above, path) = (whole[at].0, whole[at].1.clone());
            c.made(id, above, &name);
            whole.push((id, [&path[..], b"/", &name].concat(), false));
        }
        // Leaves go; what is removed is short or whole.
        for ((id, _, has_more), is_removed) in whole.iter().zip(removed).skip(1) {
            if is_removed && !has_more {
                c.removed(*id);
                if id % 2 == 0 {
                    c.gone.shorten(*id);
                }
            }
        }
        for (id, path, _) in whole.iter().skip(1) {
            let kept = c.path(*id).unwrap();
            prop_assert_eq!(attribute(&kept).key, attribute(path).key);
            prop_assert!(kept.len() <= MAX_PATH + CUT.len());
            let start = kept.strip_suffix(CUT).unwrap_or(&kept);
            prop_assert!(path.starts_with(start));
            prop_assert!(start.len() == path.len() || path[start.len()] == b'/');
        }
    }
}
