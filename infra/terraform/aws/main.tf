data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  account   = data.aws_caller_identity.this.account_id
  partition = data.aws_partition.this.partition
  # `id` is what versions 5 and 6 of the provider both have.
  region = data.aws_region.this.id

  # The configuration, as every other entry point reads it; a key that is not set is left out.
  configuration = jsonencode({
    receipts = local.receipts_url
    backlogs = {
      for name, backlog in var.backlogs :
      name => { for key, value in backlog : key => value if value != null }
    }
  })

  # Time after the drain for acknowledging, verifying and completing the receipt.
  settle_seconds = 120

  # 123456789012.dkr.ecr.REGION.SUFFIX/NAME@sha256:…
  repository     = regex("^(?P<account>[0-9]+)\\.dkr\\.ecr\\.(?P<region>[a-z0-9-]+)\\.[^/]+/(?P<name>[^@]+)@", var.image)
  repository_arn = "arn:${local.partition}:ecr:${local.repository.region}:${local.repository.account}:repository/${local.repository.name}"

  # An ARN of a secret has seven parts; a key, a stage and a version may follow.
  secret_arns = distinct([for arn in values(var.secrets) : join(":", slice(split(":", arn), 0, 7))])
}
