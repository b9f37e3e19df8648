package bucket

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob"
	azureblobs "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"gocloud.dev/blob/azureblob"
)

// azureTiers are ours in Microsoft's words. Its Archive takes hours to read; Cold is the cheapest
// that does not.
var azureTiers = map[Class]azureblobs.AccessTier{Standard: azureblobs.AccessTierHot, Archive: azureblobs.AccessTierCold}

func openAzure(ctx context.Context, b *cloud) error {
	client, account, err := azureClient(b)
	if err != nil {
		return err
	}
	if b.b, err = azureblob.OpenBucket(ctx, client, nil); err != nil {
		return err
	}
	b.makeIt = "az storage container create --name " + b.name + " --account-name " + account
	b.classOf = classOfAzure
	b.beforeWrite = func(as func(any) bool) error {
		var o *azblob.UploadStreamOptions
		if as(&o) {
			o.TransactionalValidation = azureblobs.TransferValidationTypeComputeCRC64()
		}
		return nil
	}
	b.setClass = func(ctx context.Context, key string, c Class) error {
		_, err := client.NewBlobClient(key).SetTier(ctx, azureTiers[c], nil)
		return err
	}
	return nil
}

// azureClient takes the first credentials there are, in the order that Azure's own tools do.
func azureClient(b *cloud) (c *container.Client, account string, err error) {
	o := &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Transport: &http.Client{Transport: transport(cap(b.requests))},
	}}
	for _, name := range []string{"AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGEBLOB_CONNECTIONSTRING"} {
		if s := os.Getenv(name); s != "" && b.params.Get("account") == "" {
			b.credentials = name
			c, err := container.NewClientFromConnectionString(s, b.name, o)
			if err != nil {
				return nil, "", fmt.Errorf("%w: %s cannot be read; its form is AccountName=NAME;AccountKey=KEY", ErrDenied, name)
			}
			return c, "...", nil
		}
	}
	account = b.params.Get("account")
	if account == "" {
		account = os.Getenv("AZURE_STORAGE_ACCOUNT")
	}
	base, err := azureEndpoint(b, account)
	if err != nil {
		return nil, "", err
	}
	at := strings.TrimSuffix(base, "/") + "/" + b.name
	if key := os.Getenv("AZURE_STORAGE_KEY"); key != "" {
		b.credentials = "the key of account " + account + " from AZURE_STORAGE_KEY"
		cred, err := container.NewSharedKeyCredential(account, key)
		if err != nil {
			return nil, "", fmt.Errorf("%w: AZURE_STORAGE_KEY is not base64", ErrDenied)
		}
		c, err := container.NewClientWithSharedKeyCredential(at, cred, o)
		return c, account, err
	}
	if sas := os.Getenv("AZURE_STORAGE_SAS_TOKEN"); sas != "" {
		b.credentials = "the shared access signature in AZURE_STORAGE_SAS_TOKEN"
		c, err := container.NewClientWithNoCredential(at+"?"+strings.TrimPrefix(sas, "?"), o)
		return c, account, err
	}
	b.credentials = "Azure's default identity (environment, workload, machine, az login)"
	cred, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: o.ClientOptions})
	if err != nil {
		return nil, "", fmt.Errorf("%w: no Azure credentials: set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or az login: %w", ErrDenied, brief{err})
	}
	c, err = container.NewClient(at, cred, o)
	return c, account, err
}

// azureEndpoint is the account's address: the URL's, an emulator's, or Azure's.
func azureEndpoint(b *cloud, account string) (string, error) {
	if e := b.params.Get("endpoint"); e != "" {
		return e, nil
	}
	if account == "" {
		return "", fmt.Errorf("%w: the account is missing: azblob://%s?account=NAME, or AZURE_STORAGE_ACCOUNT", ErrInvalid, b.name)
	}
	o := azureblob.NewDefaultServiceURLOptions() // AZURE_STORAGE_DOMAIN, _PROTOCOL, _IS_LOCAL_EMULATOR, ...
	o.AccountName, o.SASToken = account, ""      // the signature is added once, above
	u, err := azureblob.NewServiceURL(o)
	return string(u), err
}

func classOfAzure(as func(any) bool) Class {
	var tier string
	var item container.BlobItem
	var got azureblobs.GetPropertiesResponse
	switch {
	case as(&item):
		if item.Properties != nil && item.Properties.AccessTier != nil {
			tier = string(*item.Properties.AccessTier)
		}
	case as(&got):
		if got.AccessTier != nil {
			tier = *got.AccessTier
		}
	}
	if tier == string(azureblobs.AccessTierCold) || tier == string(azureblobs.AccessTierArchive) {
		return Archive
	}
	return Standard
}
