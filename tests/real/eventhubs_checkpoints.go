// The blob checkpoint store of the Go SDK, for one consumer group.
//
// Arguments: connection string, container, namespace, hub, group; then "own", "list", or
// "write PARTITION NUMBER OFFSET".
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2/checkpoints"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	a, ctx := os.Args[1:], context.Background()
	store := must(checkpoints.NewBlobStore(must(container.NewClientFromConnectionString(a[0], a[1], nil)), nil))
	switch a[5] {
	case "write":
		number := must(strconv.ParseInt(a[7], 10, 64))
		checkpoint := azeventhubs.Checkpoint{
			FullyQualifiedNamespace: a[2], EventHubName: a[3], ConsumerGroup: a[4],
			PartitionID: a[6], SequenceNumber: &number, Offset: &a[8],
		}
		if err := store.SetCheckpoint(ctx, checkpoint, nil); err != nil {
			panic(err)
		}
	case "own":
		must(store.ClaimOwnership(ctx, []azeventhubs.Ownership{{
			FullyQualifiedNamespace: a[2], EventHubName: a[3], ConsumerGroup: a[4],
			PartitionID: "0", OwnerID: "go-1",
		}}, nil))
	default:
		for _, found := range must(store.ListCheckpoints(ctx, a[2], a[3], a[4], nil)) {
			fmt.Println(found.PartitionID, *found.SequenceNumber, *found.Offset)
		}
	}
}
