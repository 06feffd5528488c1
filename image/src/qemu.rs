//! Booting a disk in QEMU, without KVM: the machine q35, interpreted (TCG).

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::program::text;

mod console;
mod monitor;

pub use console::Console;
pub use monitor::Monitor;

/// EFI firmware as Debian's package ovmf has it: code, and an empty store of variables.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// What becomes of what the machine writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// They are in the file.
    Kept,
    /// They are gone with the machine; the file stays as it is.
    Dropped,
    /// The machine cannot write.
    Refused,
}

/// A disk of the machine, in order: the first is /dev/vda.
#[derive(Debug, Clone)]
pub struct Disk {
    pub path: PathBuf,
    /// `raw`, `qcow2` or `vpc`.
    pub format: &'static str,
    pub writes: Writes,
}

/// An interface of the machine, in order: the first is eth0.
#[derive(Debug, Clone)]
pub struct Nic {
    /// A TAP device in the machine's namespace, which must be there. Absent: a network of QEMU's own, with DHCP.
    pub tap: Option<String>,
    pub mac: [u8; 6],
}

/// How the machine gets to its kernel.
#[derive(Debug, Clone)]
pub enum Boot {
    /// As in the cloud. The variables of the firmware are in this file, which is made where it is not there.
    Uefi { variables: PathBuf },
    /// Without firmware and boot loader: quicker by what they take.
    Direct(Direct),
}

/// What a boot loader would load.
#[derive(Debug, Clone)]
pub struct Direct {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// The kernel's command line.
    pub line: String,
}

/// A machine to be started.
#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    pub memory_mib: u32,
    pub processors: u32,
    pub boot: Boot,
    pub disks: Vec<Disk>,
    pub nics: Vec<Nic>,
    /// The network namespace, by the name that `ip netns` has for it; absent: that of the caller.
    pub namespace: Option<String>,
    /// Where the serial log and the monitor's socket go; it must be there.
    pub folder: PathBuf,
    /// Whether the serial console is also shown to whoever started us.
    pub is_shown: bool,
}

/// A machine that runs. It ends with this value.
#[derive(Debug)]
pub struct Running {
    child: Child,
    console: Console,
    monitor: Monitor,
}

impl Machine {
    /// Starts it.
    ///
    /// # Errors
    /// QEMU does not start; its own message is in the serial log's folder.
    pub fn start(&self) -> Result<Running> {
        let began = Instant::now();
        let socket = self.monitor();
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let mut command = self.command()?;
        let said = fs::File::create(self.folder.join(format!("{}.qemu", self.name)))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
        let mut child =
            command.spawn().context("cannot start QEMU; `setup/install image` brings it")?;
        let output = child.stdout.take().context("it was piped")?;
        let log = self.folder.join(format!("{}.serial", self.name));
        let console = Console::follow(output, &log, began, self.is_shown)?;
        let monitor = match Monitor::connect_while(&socket, || matches!(child.try_wait(), Ok(None)))
        {
            Ok(monitor) => monitor,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(self.folder.join(format!("{}.qemu", self.name)))?;
                return Err(error.context(format!("QEMU says: {}", said.trim())));
            }
        };
        Ok(Running { child, console, monitor })
    }

    /// Where QEMU listens for orders: see [`Monitor`].
    pub fn monitor(&self) -> PathBuf {
        self.folder.join(format!("{}.qmp", self.name))
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new("setpriv");
        if let Some(namespace) = &self.namespace {
            command = Command::new("ip");
            command.args(["netns", "exec", namespace, "setpriv"]);
        }
        // It must not outlive a test that is killed.
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(self.arguments()?);
        Ok(command)
    }

    /// What QEMU is told. Its standard output is the serial console.
    ///
    /// # Errors
    /// A path is not UTF-8, or there is no firmware.
    pub fn arguments(&self) -> Result<Vec<String>> {
        // Five levels of page tables cost time and no machine of Azure's needs them. QEMU 7.2 spoils registers in
        // CMPXCHG16B now and then, and the kernel does without where it is not there.
        const ALWAYS: &str = "-nodefaults -no-user-config -display none -vga none -monitor none \
            -machine q35 -accel tcg,thread=multi -cpu max,la57=off,cx16=off -device virtio-rng-pci \
            -chardev stdio,id=console,signal=off -serial chardev:console";
        let mut words: Vec<_> = ALWAYS.split_whitespace().map(str::to_owned).collect();
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("-m", self.memory_mib.to_string());
        add("-smp", self.processors.to_string());
        add("-qmp", format!("unix:{},server=on,wait=off", text(&self.monitor())?));
        match &self.boot {
            Boot::Uefi { variables } => {
                if !variables.exists() {
                    fs::copy(VARIABLES, variables)
                        .context("there is no firmware; `setup/install image` brings it")?;
                }
                add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE}"));
                add("-drive", format!("if=pflash,unit=1,format=raw,file={}", text(variables)?));
            }
            Boot::Direct(Direct { kernel, initramfs, line }) => {
                add("-kernel", text(kernel)?.to_owned());
                add("-initrd", text(initramfs)?.to_owned());
                add("-append", line.clone());
            }
        }
        for (at, disk) in self.disks.iter().enumerate() {
            let writes = match disk.writes {
                Writes::Kept => "",
                Writes::Dropped => ",snapshot=on",
                Writes::Refused => ",readonly=on",
            };
            let (path, format) = (text(&disk.path)?, disk.format);
            add("-drive", format!("if=none,id=disk{at},file={path},format={format}{writes}"));
            add("-device", format!("virtio-blk-pci,drive=disk{at}"));
        }
        for (at, nic) in self.nics.iter().enumerate() {
            let network = match &nic.tap {
                Some(tap) => format!("tap,id=net{at},ifname={tap},script=no,downscript=no"),
                None => format!("user,id=net{at},restrict=on"),
            };
            let mac: Vec<_> = nic.mac.iter().map(|byte| format!("{byte:02x}")).collect();
            let mac = mac.join(":");
            add("-netdev", network);
            add("-device", format!("virtio-net-pci,netdev=net{at},mac={mac},romfile="));
        }
        Ok(words)
    }
}

impl Running {
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Asks the system to end, as the cloud's stop does, and waits for it.
    ///
    /// # Errors
    /// It has not ended in time.
    pub fn shut_down(mut self, within: Duration) -> Result<()> {
        self.monitor.order("system_powerdown")?;
        // The console ends with QEMU.
        if !self.console.wait_for_end(within) {
            bail!("the machine has not ended in {} s", within.as_secs());
        }
        self.child.wait()?;
        Ok(())
    }

    /// Waits until the machine ends by itself.
    ///
    /// # Errors
    /// QEMU cannot be waited for.
    pub fn wait(mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn reset(&mut self) -> Result<()> {
        self.monitor.order("system_reset")
    }

    /// Pulls the plug.
    ///
    /// # Errors
    /// QEMU cannot be ended.
    pub fn power_off(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_q35_without_kvm_and_has_its_devices_in_order() {
        let machine = Machine {
            name: "fw-1".into(),
            memory_mib: 512,
            processors: 2,
            boot: Boot::Direct(Direct {
                kernel: "a kernel".into(),
                initramfs: "i".into(),
                line: "a b".into(),
            }),
            disks: vec![Disk { path: "d".into(), format: "raw", writes: Writes::Dropped }],
            nics: vec![Nic { tap: Some("gab-t0".into()), mac: [2, 0, 0, 0, 0, 0x1f] }],
            namespace: Some("gab-vm".into()),
            folder: "/tmp".into(),
            is_shown: false,
        };
        let words = machine.arguments().unwrap();
        let after = |word: &str| words.iter().skip_while(|w| *w != word).nth(1).unwrap().clone();
        assert_eq!(after("-machine"), "q35");
        assert_eq!(after("-append"), "a b");
        assert_eq!(after("-kernel"), "a kernel");
        assert_eq!(after("-drive"), "if=none,id=disk0,file=d,format=raw,snapshot=on");
        assert!(after("-netdev").starts_with("tap,id=net0,ifname=gab-t0"));
        assert!(
            words.contains(&"virtio-net-pci,netdev=net0,mac=02:00:00:00:00:1f,romfile=".into())
        );
        assert!(!words.iter().any(|word| word.contains("kvm") || word.contains("microvm")));
        let command = machine.command().unwrap();
        assert_eq!(command.get_program(), "ip");
    }
}
