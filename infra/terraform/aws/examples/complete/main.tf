# One backlog on Amazon MSK, cleared every night in eight slices once its schedule is enabled.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

provider "aws" {
  region = var.region
}

data "aws_secretsmanager_secret" "kafka" {
  name = var.secret_name
}

module "drain" {
  source = "../.."

  image      = var.image
  vpc_id     = var.vpc_id
  subnet_ids = var.subnet_ids
  brokers    = { msk = { from_port = 9096, security_group_id = var.msk_security_group_id } }

  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers   = var.bootstrap_servers
        topic               = "orders"
        group_id            = "billing"
        "security.protocol" = "SASL_SSL"
        "sasl.mechanisms"   = "SCRAM-SHA-512"
        "sasl.username"     = "$${env:KAFKA_USER}"
        "sasl.password"     = "$${env:KAFKA_PASSWORD}"
      }
      workers = 8
    }
  }
  secrets = {
    KAFKA_USER     = "${data.aws_secretsmanager_secret.kafka.arn}:username::"
    KAFKA_PASSWORD = "${data.aws_secretsmanager_secret.kafka.arn}:password::"
  }
  # MSK requires that its secrets are encrypted with a customer managed key.
  secrets_kms_key_arns = [data.aws_secretsmanager_secret.kafka.kms_key_id]

  schedules = {
    orders = { expression = "cron(0 3 * * ? *)", timezone = "Europe/Berlin", slices = 8 }
  }
  tags = { service = "backlog-clearer" }
}

# The brokers let the containers in.
resource "aws_vpc_security_group_ingress_rule" "msk" {
  security_group_id            = var.msk_security_group_id
  description                  = "backlog-clearer"
  ip_protocol                  = "tcp"
  from_port                    = 9096
  to_port                      = 9096
  referenced_security_group_id = module.drain.security_group_id
}

# The recipient has to confirm the e-mail that this sends.
resource "aws_sns_topic_subscription" "alarms" {
  topic_arn = module.drain.alarm_topic_arn
  protocol  = "email"
  endpoint  = var.alarm_email
}
