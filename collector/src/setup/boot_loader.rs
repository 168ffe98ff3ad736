//! Where a node's kernel command line is kept, in the words of the boot loader that is there.
//!
//! Promise: looks at files below the root directory alone, so that it serves an image as well as a node.
//! Not here: writing anything (see [`super`]).

use super::at;
use std::path::Path;

/// What the command line needs: the kernel measures from the start, so that the IMA policy itself is in the
/// list. Kernels that need more (`lsm=`) say so in `cgpathd check`.
pub(super) const WORD: &str = "ima_policy=tcb";

/// GRUB as Debian has it reads each file of this directory.
const GRUB_DROP_IN: (&str, &str) = (
    "/etc/default/grub.d/ima-cgpath.cfg",
    "# The kernel measures from the start.\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX ima_policy=tcb\"\n",
);

/// A boot loader, and what a person does with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BootLoader {
    /// Its name.
    pub name: &'static str,
    /// A file of our own that has the word: path and content.
    pub drop_in: Option<(&'static str, &'static str)>,
    /// One of its settings has the word already.
    pub is_set: bool,
    /// How the word comes to the kernel.
    pub add: String,
    /// How it goes again.
    pub undo: String,
}

impl BootLoader {
    /// One whose settings a person edits.
    fn edited(root: &Path, name: &'static str, file: &str, add: &str, remove: &str, apply: &str) -> Self {
        let then = match apply {
            "" => String::new(),
            apply => format!(", then run: {apply}"),
        };
        Self {
            name,
            drop_in: None,
            is_set: has_word(root, file),
            add: format!("{add}{then}"),
            undo: format!("{remove}{then}"),
        }
    }
}

/// The boot loaders that a root file system has; of most there is one.
pub(super) fn found(root: &Path) -> Vec<BootLoader> {
    [grub, systemd_boot, u_boot_menu, extlinux, raspberry_pi]
        .iter()
        .filter_map(|look| look(root))
        .collect()
}

fn is_there(root: &Path, path: &str) -> bool {
    at(root, path).exists()
}

/// Whether a file has the word, by itself or at the end of a quoted value, in a line that is no comment.
fn has_word(root: &Path, path: &str) -> bool {
    let Ok(text) = std::fs::read(at(root, path)) else {
        return false;
    };
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .flat_map(|line| line.split(|c: char| c.is_whitespace() || c == '"' || c == '\''))
        .any(|word| word == WORD)
}

fn grub(root: &Path) -> Option<BootLoader> {
    let settings = "/etc/default/grub";
    if is_there(root, "/usr/sbin/update-grub") {
        return Some(BootLoader {
            name: "GRUB",
            drop_in: Some(GRUB_DROP_IN),
            is_set: has_word(root, settings),
            add: "run: update-grub".to_owned(),
            undo: "run: update-grub".to_owned(),
        });
    }
    // Fedora and its relatives keep the words with each kernel.
    if is_there(root, "/usr/sbin/grubby") || is_there(root, "/usr/bin/grubby") {
        return Some(BootLoader {
            name: "GRUB",
            drop_in: None,
            is_set: has_word(root, "/etc/kernel/cmdline"),
            add: format!("run: grubby --update-kernel=ALL --args={WORD}"),
            undo: format!("run: grubby --update-kernel=ALL --remove-args={WORD}"),
        });
    }
    let (config, program) = [
        ("/boot/grub2/grub.cfg", "grub2-mkconfig"),
        ("/boot/grub/grub.cfg", "grub-mkconfig"),
    ]
    .into_iter()
    .find(|(config, _)| is_there(root, config))?;
    Some(BootLoader::edited(
        root,
        "GRUB",
        settings,
        &format!("add {WORD} to GRUB_CMDLINE_LINUX in {settings}"),
        &format!("take {WORD} out of GRUB_CMDLINE_LINUX in {settings}"),
        &format!("{program} -o {config}"),
    ))
}

/// Entries, or unified kernel images, that kernel-install makes from /etc/kernel/cmdline.
fn systemd_boot(root: &Path) -> Option<BootLoader> {
    let partitions = ["/boot", "/efi", "/boot/efi"];
    let has_loader = |path: &str| is_there(root, &format!("{path}/loader/loader.conf"));
    let has_image = |path: &str| is_there(root, &format!("{path}/EFI/Linux"));
    let installs_images = ["/etc/kernel/install.conf", "/usr/lib/kernel/install.conf"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(at(root, file)).ok())
        .any(|text| text.lines().any(|line| line.trim() == "layout=uki"));
    let unified = installs_images || partitions.iter().any(|path| has_image(path));
    if !unified && !partitions.iter().any(|path| has_loader(path)) {
        return None;
    }
    let file = "/etc/kernel/cmdline";
    let add = if is_there(root, file) {
        format!("add {WORD} to the line of {file}")
    } else {
        format!(
            "write {file}: one line, the words of /proc/cmdline but for BOOT_IMAGE= and initrd=, and {WORD}"
        )
    };
    let apply = if is_there(root, "/etc/kernel/postinst.d/zz-systemd-boot") {
        "dpkg-reconfigure linux-image-$(uname -r)"
    } else {
        "kernel-install add \"$(uname -r)\" \"/usr/lib/modules/$(uname -r)/vmlinuz\""
    };
    let name = if unified {
        "a unified kernel image"
    } else {
        "systemd-boot"
    };
    let remove = format!("take {WORD} out of {file}");
    Some(BootLoader::edited(root, name, file, &add, &remove, apply))
}

/// What Debian's u-boot-menu makes for U-Boot.
fn u_boot_menu(root: &Path) -> Option<BootLoader> {
    let file = "/etc/default/u-boot";
    is_there(root, "/usr/sbin/u-boot-update").then(|| {
        BootLoader::edited(
            root,
            "U-Boot",
            file,
            &format!("add {WORD} to U_BOOT_PARAMETERS in {file}"),
            &format!("take {WORD} out of U_BOOT_PARAMETERS in {file}"),
            "u-boot-update",
        )
    })
}

fn extlinux(root: &Path) -> Option<BootLoader> {
    // u-boot-menu writes the same file.
    if is_there(root, "/usr/sbin/u-boot-update") {
        return None;
    }
    if is_there(root, "/usr/sbin/extlinux-update") {
        let file = "/etc/default/extlinux";
        return Some(BootLoader::edited(
            root,
            "EXTLINUX",
            file,
            &format!("add {WORD} to EXTLINUX_PARAMETERS in {file}"),
            &format!("take {WORD} out of EXTLINUX_PARAMETERS in {file}"),
            "extlinux-update",
        ));
    }
    let file = "/boot/extlinux/extlinux.conf";
    is_there(root, file).then(|| {
        BootLoader::edited(
            root,
            "EXTLINUX",
            file,
            &format!("add {WORD} to each line APPEND of {file}"),
            &format!("take {WORD} out of each line APPEND of {file}"),
            "",
        )
    })
}

fn raspberry_pi(root: &Path) -> Option<BootLoader> {
    // Debian's raspi-firmware writes cmdline.txt anew with each kernel.
    if is_there(root, "/etc/kernel/postinst.d/z50-raspi-firmware") {
        let file = "/etc/default/raspi-extra-cmdline";
        return Some(BootLoader::edited(
            root,
            "the Raspberry Pi's firmware",
            file,
            &format!("add {WORD} to the line of {file}"),
            &format!("take {WORD} out of {file}"),
            "update-initramfs -u",
        ));
    }
    let places = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];
    let file = places.into_iter().find(|file| is_there(root, file))?;
    Some(BootLoader::edited(
        root,
        "the Raspberry Pi's firmware",
        file,
        &format!("add {WORD} to the one line of {file}"),
        &format!("take {WORD} out of {file}"),
        "",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root file system with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = at(dir.path(), path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    fn only(files: &[(&str, &str)]) -> BootLoader {
        let root = root(files);
        let mut found = found(root.path());
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// Files and their contents, the boot loader's name, and what it says to run.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

    #[test]
    fn each_boot_loader_is_known_by_its_files_and_named_with_its_own_command() {
        let cases: &[Case] = &[
            (&[("/usr/sbin/update-grub", "")], "GRUB", "run: update-grub"),
            (
                &[("/usr/sbin/grubby", ""), ("/boot/grub2/grub.cfg", "")],
                "GRUB",
                "run: grubby --update-kernel=ALL --args=ima_policy=tcb",
            ),
            (
                &[("/boot/grub2/grub.cfg", "")],
                "GRUB",
                "add ima_policy=tcb to GRUB_CMDLINE_LINUX in /etc/default/grub, then run: grub2-mkconfig -o \
                 /boot/grub2/grub.cfg",
            ),
            (
                &[
                    ("/efi/loader/loader.conf", ""),
                    ("/etc/kernel/cmdline", "quiet\n"),
                ],
                "systemd-boot",
                "add ima_policy=tcb to the line of /etc/kernel/cmdline, then run: kernel-install \
                 add \"$(uname -r)\" \"/usr/lib/modules/$(uname -r)/vmlinuz\"",
            ),
            (
                &[
                    ("/boot/efi/loader/loader.conf", ""),
                    ("/etc/kernel/postinst.d/zz-systemd-boot", ""),
                ],
                "systemd-boot",
                "write /etc/kernel/cmdline: one line, the words of /proc/cmdline but for BOOT_IMAGE= and \
                 initrd=, and ima_policy=tcb, then run: dpkg-reconfigure linux-image-$(uname -r)",
            ),
            (
                &[
                    ("/etc/kernel/install.conf", "layout=uki\n"),
                    ("/etc/kernel/cmdline", ""),
                ],
                "a unified kernel image",
                "add ima_policy=tcb to the line of /etc/kernel/cmdline, then run: kernel-install \
                 add \"$(uname -r)\" \"/usr/lib/modules/$(uname -r)/vmlinuz\"",
            ),
            (
                &[
                    ("/usr/sbin/u-boot-update", ""),
                    ("/boot/extlinux/extlinux.conf", ""),
                ],
                "U-Boot",
                "add ima_policy=tcb to U_BOOT_PARAMETERS in /etc/default/u-boot, then run: u-boot-update",
            ),
            (
                &[
                    ("/usr/sbin/extlinux-update", ""),
                    ("/boot/extlinux/extlinux.conf", ""),
                ],
                "EXTLINUX",
                "add ima_policy=tcb to EXTLINUX_PARAMETERS in /etc/default/extlinux, then run: \
                 extlinux-update",
            ),
            (
                &[("/boot/extlinux/extlinux.conf", "")],
                "EXTLINUX",
                "add ima_policy=tcb to each line APPEND of /boot/extlinux/extlinux.conf",
            ),
            (
                &[
                    ("/etc/kernel/postinst.d/z50-raspi-firmware", ""),
                    ("/boot/firmware/cmdline.txt", ""),
                ],
                "the Raspberry Pi's firmware",
                "add ima_policy=tcb to the line of /etc/default/raspi-extra-cmdline, then run: \
                 update-initramfs -u",
            ),
            (
                &[("/boot/firmware/cmdline.txt", "")],
                "the Raspberry Pi's firmware",
                "add ima_policy=tcb to the one line of /boot/firmware/cmdline.txt",
            ),
        ];
        for (files, name, add) in cases {
            let loader = only(files);
            assert_eq!((loader.name, loader.add.as_str()), (*name, *add));
            assert!(!loader.is_set, "{files:?}");
            assert!(
                loader.undo.contains("take ima_policy=tcb out of")
                    || loader.undo.contains("--remove-args=")
                    || loader.drop_in.is_some(),
                "{loader:?}"
            );
        }
        assert_eq!(found(root(&[]).path()), []);
    }

    #[test]
    fn a_word_that_stands_there_is_seen_and_one_in_a_comment_or_in_another_word_is_not() {
        let grub = |settings: &str| {
            let found = only(&[("/boot/grub/grub.cfg", ""), ("/etc/default/grub", settings)]);
            found.is_set
        };
        assert!(grub("GRUB_CMDLINE_LINUX=\"quiet ima_policy=tcb\"\n"));
        assert!(grub("GRUB_CMDLINE_LINUX='ima_policy=tcb'\n"));
        assert!(!grub("#GRUB_CMDLINE_LINUX=\"ima_policy=tcb\"\n"));
        assert!(!grub(
            "GRUB_CMDLINE_LINUX=\"ima_policy=tcb|critical_data xima_policy=tcb\"\n"
        ));
        let pi = |line| only(&[("/boot/firmware/cmdline.txt", line)]).is_set;
        assert!(pi("console=tty1 ima_policy=tcb\n") && !pi("console=tty1\n"));
    }

    #[test]
    fn a_node_with_two_boot_loaders_is_shown_both() {
        let root = root(&[
            ("/usr/sbin/update-grub", ""),
            ("/boot/efi/loader/loader.conf", ""),
        ]);
        let names: Vec<&str> = found(root.path()).iter().map(|loader| loader.name).collect();
        assert_eq!(names, ["GRUB", "systemd-boot"]);
    }

    #[test]
    fn the_drop_in_has_the_word() {
        let root = root(&[GRUB_DROP_IN]);
        assert!(has_word(root.path(), GRUB_DROP_IN.0));
    }
}
