package audit_test

import "flag"

var (
	tessera = flag.Bool("tessera", false, "have tessera's fsck, which is downloaded, read a log of ours")
	update  = flag.Bool("update", false, "write the fixture anew")
)
