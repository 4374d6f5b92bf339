variable "region" {
  description = "Where the brokers are."
  type        = string
}

variable "image" {
  description = "The job's image in ECR, by its digest."
  type        = string
}

variable "vpc_id" {
  description = "The brokers' VPC."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of it."
  type        = list(string)
}

variable "msk_security_group_id" {
  description = "The brokers' security group."
  type        = string
}

variable "bootstrap_servers" {
  description = "The brokers' SASL/SCRAM addresses, comma-separated."
  type        = string
}

variable "secret_name" {
  description = "The secret that is associated with the cluster: its name begins with AmazonMSK_."
  type        = string
}

variable "alarm_email" {
  description = "E-mail address that is notified of a drain that failed."
  type        = string
}
