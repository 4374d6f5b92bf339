# What the module needs to be applied on an emulator: a network, a secret, and Batch's own role, which the
# emulator asks for.

provider "aws" {
  region = "eu-west-1"
}

variable "bootstrap_servers" {
  type = string
}

variable "topic" {
  type = string
}

variable "group_id" {
  type = string
}

resource "aws_vpc" "this" {
  cidr_block = "10.0.0.0/16"
}

resource "aws_subnet" "this" {
  vpc_id     = aws_vpc.this.id
  cidr_block = "10.0.0.0/24"
}

resource "aws_secretsmanager_secret" "kafka" {
  name                    = "kafka"
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "kafka" {
  secret_id     = aws_secretsmanager_secret.kafka.id
  secret_string = jsonencode({ client = "from-the-secret" })
}

resource "aws_iam_role" "batch" {
  name = "batch"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "batch.amazonaws.com" } }]
  })
}

module "drain" {
  source = "../"

  image      = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/backlog-clearer@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  vpc_id     = aws_vpc.this.id
  subnet_ids = [aws_subnet.this.id]
  brokers    = { kafka = { from_port = 9092, to_port = 9094, cidr_ipv4 = "10.0.0.0/16" } }

  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers = var.bootstrap_servers
        topic             = var.topic
        group_id          = var.group_id
        "client.id"       = "$${env:KAFKA_CLIENT}"
      }
      workers = 2
    }
  }
  secrets   = { KAFKA_CLIENT = "${aws_secretsmanager_secret.kafka.arn}:client::" }
  schedules = { orders = { expression = "cron(0 3 * * ? *)", slices = 4 } }
  receipts  = { force_destroy = true }

  environment = { TZ = "UTC" }

  batch_service_role_arn = aws_iam_role.batch.arn
}

output "drain" {
  value = module.drain
}
