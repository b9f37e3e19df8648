package main

import (
	"testing"
	"time"
)

func ownTime(*testing.T) time.Duration { return 0 }
