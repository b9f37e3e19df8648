package seal

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/zalando/go-keyring"
)

// ErrUnavailable says that what a key is kept in does not answer.
var ErrUnavailable = errors.New("unavailable")

// keyringService is under which name our keys are in the system's keyring.
const keyringService = "quantra"

// LoadKeyring is a key from the system's keyring: macOS' keychain, Windows' credentials, the Secret Service of a desktop elsewhere. The
// error is [fs.ErrNotExist] where it has no such key, [ErrUnavailable] where there is no keyring, as on most servers.
func LoadKeyring(name string) (Key, error) {
	text, err := keyring.Get(keyringService, name)
	if err != nil {
		return Key{}, keyringError(name, err)
	}
	k, err := DecodeKey([]byte(text), nil)
	if err != nil {
		return Key{}, fmt.Errorf("the keyring's %s: %w", name, err)
	}
	return k, nil
}

// SaveKeyring puts a key into the system's keyring, which encrypts it for the user's session. Without replace the error is
// [fs.ErrExist] where it has one of the name.
func SaveKeyring(name string, k Key, replace bool) error {
	if !replace {
		switch _, err := keyring.Get(keyringService, name); {
		case err == nil:
			return fmt.Errorf("the keyring's %s: %w", name, fs.ErrExist)
		case !errors.Is(err, keyring.ErrNotFound):
			return keyringError(name, err)
		}
	}
	text, err := EncodeKey(k, KeyOptions{})
	if err != nil {
		return err
	}
	defer clear(text)
	if err := keyring.Set(keyringService, name, string(text)); err != nil {
		return keyringError(name, err)
	}
	return nil
}

func keyringError(name string, err error) error {
	if errors.Is(err, keyring.ErrNotFound) {
		return fmt.Errorf("the keyring's %s: %w", name, fs.ErrNotExist)
	}
	return fmt.Errorf("the system's keyring is %w: %w; keep the key in a file instead", ErrUnavailable, err)
}
