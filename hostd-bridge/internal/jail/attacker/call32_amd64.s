#include "textflag.h"

// func getpid32() int32
// It enters the kernel the way of i386, whose number of getpid is 20.
TEXT ·getpid32(SB),NOSPLIT,$0-4
	MOVL $20, AX
	INT  $0x80
	MOVL AX, ret+0(FP)
	RET
