package guestinfo

// cpuid executes CPUID with leaf.
func cpuid(leaf uint32) (ax, bx, cx, dx uint32)

// port executes "inl (%dx), %eax" with the registers. Outside VMware it is a fault.
//
//go:noescape
func port(r *registers)

// onVMware reports whether the hypervisor is VMware's: CPUID leaf 1 has the hypervisor bit (ECX bit 31) and leaf
// 0x40000000 the signature (VMware KB 1009458).
func onVMware() bool {
	if _, _, cx, _ := cpuid(1); cx>>31 == 0 {
		return false
	}
	_, bx, cx, dx := cpuid(0x40000000)
	return bx == 0x61774d56 && cx == 0x4d566572 && dx == 0x65726177 // "VMwa" "reVM" "ware"
}
