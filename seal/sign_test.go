package seal_test

import (
	"errors"
	"testing"

	"github.com/quantra-l/quantra/seal"
)

func TestSign(t *testing.T) {
	k := seal.NewKey()
	s, err := k.Sign("test v1", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Public().Verify("test v1", []byte("hello"), s); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another domain":  k.Public().Verify("test v2", []byte("hello"), s),
		"another message": k.Public().Verify("test v1", []byte("hellO"), s),
		"another key":     seal.NewKey().Public().Verify("test v1", []byte("hello"), s),
	} {
		if !errors.Is(err, seal.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := k.Sign("", nil); err == nil {
		t.Error("a signature without a domain")
	}
}
