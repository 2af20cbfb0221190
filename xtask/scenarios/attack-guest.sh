# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest under stock QEMU attacks its static window: as user processes, as root, in its kernel, by DMA.
tell() { printf 'attack sealed-static guest %s %s %s\n' "$1" "$2" "$3"; }

check guest_ready eventually 60 test -e /share/go
modprobe -a vgem vivid
host-attack guest sealed/0 sealed-static
# What passes in guest-check was blocked; what it only does in between stays a check.
guest-check attack sealed/0 | sed -n '
	/^check \(sync_start_read\|sync_end_read\|fd_access_mode\|bytes_unchanged\|pci_unbind\|pci_enable\|pci_bind\|pci_resource_reached\|revoked_faults\|re[a-z]*_after_bind\) /{
		s/^check /check sealed-static\//p
		d
	}
	s/^check \([^ ]*\) pass \(.*\)/attack sealed-static guest \1 blocked \2/p
	s/^check \([^ ]*\) fail \(.*\)/attack sealed-static guest \1 landed \2/p'

# In the kernel, while the buffer is in use. The page of a file that a device is to write into the window, by DMA:
head -c 4096 /dev/zero | tr '\0' '\245' >/share/evil
for method in ioremap ioremap_wc memremap direct dma; do
	dmesg -c >/dev/null
	host-attack hold sealed/0 "insmod /lib/bed/attack_window.ko method=$method pages=1024 2>/dev/null"
	said=$(dmesg | sed -n "s/.*attack_window: $method: //p" | tail -n 1)
	case $said in
	"0 of "*|"refused "*) tell kernel_$method blocked "$said" ;;
	"") tell kernel_$method n/a "the module said nothing" ;;
	*) tell kernel_$method landed "$said" ;;
	esac
done
check guest_goes_on guest-check crc sealed/0
guest-check crc sealed/0 | tail -n 1 >/share/guest-crc
exit 0
