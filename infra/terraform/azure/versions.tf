terraform {
  required_version = ">= 1.9" # a validation may refer to other variables

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.73, < 6" # identity_id in a scale rule
    }
  }
}
